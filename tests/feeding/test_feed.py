"""Feeding: from a user's data to what the programs take."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxloop import Event, TrainingLoop, on_host
from jaxloop.data import TrainingEpochs, in_batches, repeat
from jaxloop.feeding.feed import Feed
from jaxloop.losses import softmax_cross_entropy
from tests import small

DEVICE = jax.devices()[0]


def pairs(count):
    """Input float32[count, 2] and target int32[count], numbered."""
    return np.repeat(np.arange(count, dtype=np.float32)[:, np.newaxis], 2, axis=1), np.arange(count, dtype=np.int32)


def feed(batches, *, padded=False, batch_keys=None, packs=False):
    return Feed(batches, "training", batch_keys, padded, DEVICE, packs=packs)


def targets(chunks):
    return [(count, np.asarray(target).tolist()) for count, (_, target, _) in chunks]


class Loader:
    """A sized iterable that writes every batch into the same memory."""

    def __init__(self, count):
        self.count = count
        self.memory = pairs(2)

    def __len__(self):
        return self.count

    def __iter__(self):
        for index in range(self.count):
            self.memory[1][:] = index
            yield self.memory


def test_one_step_at_once_gives_batches_as_they_are():
    assert targets(feed(in_batches(pairs(6), 2)).chunks(1)) == [(1, [0, 1]), (1, [2, 3]), (1, [4, 5])]


@pytest.mark.parametrize("kind", [list, lambda batches: batches], ids=["list", "batches"])
def test_many_steps_at_once_give_stacked_batches_and_a_single_one_is_not(kind):
    assert targets(feed(kind(in_batches(pairs(6), 2))).chunks(2)) == [(2, [[0, 1], [2, 3]]), (1, [4, 5])]


def test_batches_that_are_mapped_are_stacked_one_by_one():
    batches = in_batches(pairs(6), 2).map(lambda batch: (batch[0], batch[1] * 10))
    assert targets(feed(batches).chunks(3)) == [(3, [[0, 10], [20, 30], [40, 50]])]


@pytest.mark.parametrize("steps", [1, 2, 3, 10])
def test_a_shuffled_epoch_is_fed_in_its_order(steps):
    epoch = TrainingEpochs(pairs(20), 3)[5]
    fed = np.concatenate([np.ravel(target) for _, target in targets(feed(epoch).chunks(steps))])
    np.testing.assert_array_equal(fed, np.concatenate([target for _, target in epoch]))


@pytest.mark.parametrize("steps", [1, 2])
def test_a_loader_that_reuses_its_memory_is_copied(steps):
    fed = list(feed(Loader(4)).chunks(steps))
    assert np.ravel([target for _, target in targets(fed)]).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_jax_arrays_pass_without_a_copy():
    batch = (jnp.zeros((2, 2)), jnp.zeros(2, jnp.int32))
    ((_, (input, _, _)),) = feed([batch]).chunks(1)
    assert input is batch[0]


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_a_padded_feed_fills_the_last_batch_with_what_weighs_nothing(steps):
    chunks = list(feed(in_batches(pairs(5), 2), padded=True).chunks(steps))
    inputs, labels, weights = (
        np.concatenate([np.reshape(chunk[part], (-1, 2)) for _, chunk in chunks]) for part in range(3)
    )
    assert weights.tolist() == [[1, 1], [1, 1], [1, 0]]
    assert labels.tolist() == [[0, 1], [2, 3], [4, 4]]
    assert inputs[-1].tolist() == [4, 4]


def test_a_padded_feed_keeps_the_weights_it_is_given():
    weight = np.array([0.5, 2.0, 3.0], np.float32)
    chunks = list(feed(in_batches((*pairs(3), weight), 2), padded=True).chunks(1))
    assert [chunk[2].tolist() for _, chunk in chunks] == [[0.5, 2], [3, 0]]


def test_a_padded_feed_pads_weights_of_tokens():
    samples = (np.zeros((3, 4), np.float32), np.zeros((3, 4), np.int32), np.ones((3, 4), np.bool_))
    *_, (_, (_, _, weight)) = feed(in_batches(samples, 2), padded=True).chunks(1)
    assert weight.tolist() == [[True] * 4, [False] * 4]


def test_padding_can_be_taken_back():
    padded = feed(in_batches(pairs(5), 2), padded=True)
    padded.first()
    assert targets(padded.with_padding(False).chunks(1)) == [(1, [0, 1]), (1, [2, 3]), (1, [4])]


def test_a_feed_knows_its_batch_size_once_a_batch_was_read():
    one = feed(in_batches(pairs(5), 2))
    one.first()
    assert (one.batch_size, len(one)) == (2, 3)


def other_batches():
    """Batches that are not like the first, each with what the message says of it."""
    return {
        "shape": (
            (np.zeros((2, 3), np.float32), pairs(2)[1]),
            r"input was float32\[2, 2\] there, now it is float32\[2, 3\]",
        ),
        "size": (pairs(1), r"input was float32\[2, 2\] there, now it is float32\[1, 2\]"),
        "dtype": ((pairs(2)[0], pairs(2)[1].astype(np.int8)), r"target was int32\[2\] there, now it is int8\[2\]"),
    }


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize(("batch", "message"), other_batches().values(), ids=other_batches())
def test_a_batch_unlike_the_first_is_refused_by_leaf(batch, message, steps):
    with pytest.raises(ValueError, match=f"training: every batch must be like the first; {message}"):
        list(feed([pairs(2), batch]).chunks(steps))


@pytest.mark.parametrize("other", [({"a": pairs(2)[0]}, pairs(2)[1]), ((pairs(2)[0],) * 2, pairs(2)[1])])
def test_a_batch_of_another_structure_is_refused_in_our_own_words(other):
    with pytest.raises(ValueError, match="training: every batch must be like the first"):
        list(feed([pairs(2), other]).chunks(1))


@pytest.mark.parametrize("batch", [([[1.0, 2.0], [3.0, 4.0]], [0, 1]), (pairs(2)[0], np.float32(1))])
def test_a_leaf_without_a_leading_axis_is_refused_by_name(batch):
    with pytest.raises((TypeError, ValueError), match=r"training: .*(input|target)"):
        feed([batch]).first()


@pytest.mark.parametrize("kind", [list, lambda batches: batches], ids=["list", "batches"])
@pytest.mark.parametrize("steps", [1, 2])
def test_a_scalar_loss_is_evaluated_over_a_short_last_batch_exactly(linear_model, samples, kind, steps):
    training_loop = TrainingLoop(
        TrainingEpochs(samples, 4),
        optimizer=optax.sgd(0.1),
        loss_fn=lambda output, target: softmax_cross_entropy(output, target).mean(),
        progress=False,
        steps_per_dispatch=steps,
    )
    model = linear_model()
    expected = float(softmax_cross_entropy(model(samples[0]), samples[1]).mean())
    measured = training_loop.evaluate(model, kind(in_batches(samples, 8)))
    assert measured["loss"] == pytest.approx(expected, rel=1e-6)


def bucketed(lengths, shapes):
    """Batches of two texts each, padded to these lengths, that announce `shapes`."""

    class Texts(list):
        pass

    batches = Texts((np.zeros((2, length), np.int32), np.zeros(2, np.int32)) for length in lengths)
    batches.shapes = shapes
    return batches


def test_batches_of_announced_lengths_pass_and_are_never_mixed_in_a_dispatch():
    chunks = list(feed(bucketed([8, 8, 4, 4, 8, 4], (4, 8))).chunks(2))
    assert [(count, chunk[0].shape) for count, chunk in chunks] == [
        (2, (2, 2, 8)),
        (2, (2, 2, 4)),
        (1, (2, 8)),
        (1, (2, 4)),
    ]


def test_a_length_that_was_not_announced_is_refused():
    with pytest.raises(ValueError, match=r"input was int32\[2, 8\] there, now it is int32\[2, 6\]"):
        list(feed(bucketed([8, 6], (4, 8))).chunks(1))


# --- batches that go alone, packed


class Foreign:
    """An array of another library."""

    def __init__(self, array):
        self.array = array

    def __array__(self, dtype=None, copy=None):
        return self.array


SOURCES = {
    "batches": lambda batches: batches,
    "mapped": lambda batches: batches.map(lambda batch: batch),
    "list": list,
    "reusing": lambda batches: Loader(len(batches)),
    "foreign": lambda batches: [tuple(map(Foreign, batch)) for batch in batches],
    "weighted": lambda batches: [(*batch, np.full(2, 0.5, np.float32)) for batch in batches],
}


@pytest.mark.parametrize("seen", [False, True], ids=["nothing seen", "the first seen"])
@pytest.mark.parametrize("source", [*SOURCES, "on the device"])
def test_batches_of_one_kind_are_stacked_alike_whether_or_not_the_first_was_seen(source, seen):
    sources = SOURCES | {"on the device": lambda batches: [tuple(map(jnp.asarray, batch)) for batch in batches]}
    one = feed(sources[source](in_batches(pairs(10), 2)))
    if seen:
        one.first()
    expected = [(0, 1, 2, 3), (4, 5, 6, 7), (8, 9)] if source != "reusing" else [(0, 0, 1, 1), (2, 2, 3, 3), (4, 4)]
    found = [(count, np.ravel(target).tolist()) for count, (_, target, _) in one.chunks(2)]
    assert found == [(count, list(labels)) for count, labels in zip([2, 2, 1], expected, strict=True)]


@pytest.mark.parametrize("batch", [(pairs(2)[0], pairs(2)[1].astype(np.int8)), (*pairs(2), np.ones(2, np.float32))])
def test_a_batch_of_another_kind_among_stacked_ones_is_refused_when_the_first_was_seen(batch):
    one = feed([pairs(2), pairs(2), batch])
    one.first()
    with pytest.raises(ValueError, match="training: every batch must be like the first"):
        list(one.chunks(3))


def test_arrays_of_weak_type_are_stacked_as_what_they_are():
    weak = jnp.broadcast_to(1.5, (2, 2)), jnp.broadcast_to(1, (2,))
    one = feed([weak] * 3, packs=True)
    one.first()
    (count, (input, target, _)), _ = one.chunks(2)
    assert (weak[0].weak_type, count, input.dtype, target.tolist()) == (True, 2, np.float32, [[1, 1], [1, 1]])


def test_a_loader_that_ends_early_gives_what_there_is_and_is_told():
    class Short(Loader):
        def __len__(self):
            return self.count + 2

    one = feed(Short(3))
    one.first()
    chunks = one.chunks(4)
    assert [next(chunks)[0]] == [3]
    with pytest.raises(ValueError, match="ended after 3 of the 5 batches"):
        next(chunks)


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("source", SOURCES)
def test_packed_batches_are_those_that_are_not_and_the_program_is_made_for_them(source, steps):
    batches = SOURCES[source](in_batches(pairs(10), 2))
    packed, plain = feed(batches, packs=True), feed(batches)
    first = packed.first()
    for (count, chunk), (same, expected) in zip(packed.chunks(steps), plain.chunks(steps), strict=True):
        assert count == same
        like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), chunk)
        assert like == packed.travelling(first, count)
        small.assert_trees_equal(packed.packing.unpack(chunk) if count == 1 else chunk, expected)


def test_batches_by_name_are_packed_by_their_parts():
    input, target = pairs(6)
    batches = in_batches({"id": target * 10, "label": target, "image": input}, 2)
    named = feed(batches, batch_keys=("image", "label"), packs=True)
    chunks = [named.packing.unpack(words) for _, words in named.chunks(1)]
    assert targets([(1, chunk) for chunk in chunks]) == [(1, [0, 1]), (1, [2, 3]), (1, [4, 5])]
    assert chunks[1][0].tolist() == [[2, 2], [3, 3]]


@pytest.mark.parametrize(
    "batches",
    [
        [(jnp.zeros((2, 2)), jnp.zeros(2, jnp.int32))],
        [(np.zeros((2, 2), np.uint8), np.zeros(2, np.int32))],
        in_batches((np.zeros((4, 50_000), np.float32), np.zeros(4)), 2),
    ],
    ids=["on the device", "bytes", "large"],
)
def test_batches_that_gain_nothing_travel_as_they_are(batches):
    one = feed(batches, packs=True)
    _, chunk = next(one.chunks(1))
    assert (one.packing, len(chunk)) == (None, 3)


@pytest.mark.parametrize("changes", [{"padded": True}, {"short_last": True}, {"on_recompile": "warn"}], ids=repr)
def test_where_batches_may_be_of_several_kinds_none_is_packed(changes):
    one = replace(feed(in_batches(pairs(6), 2), packs=True), **changes)
    one.first()
    assert one.packing is None


@pytest.mark.parametrize("packs", [False, True])
@pytest.mark.parametrize("kind", [list, lambda batches: batches], ids=["list", "batches"])
def test_a_short_batch_in_training_is_refused(kind, packs):
    with pytest.raises(ValueError, match=r"training: every batch must be like the first; input was float32\[3, 2\]"):
        list(feed(kind(in_batches(pairs(7), 3)), packs=packs).chunks(1))


@pytest.mark.parametrize("packs", [False, True])
def test_a_weight_that_comes_later_is_refused(packs):
    with pytest.raises(ValueError, match=r"training: every batch must be like the first; its structure was"):
        list(feed([pairs(2), (*pairs(2), np.ones(2, np.float32))], packs=packs).chunks(1))


# --- how often a loader is begun


class Counted:
    """A loader that counts how often it is begun, as one does that starts workers or draws an order."""

    def __init__(self, count):
        self.batches = list(in_batches(small.samples(4 * count), 4))
        self.begun = 0

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        self.begun += 1
        yield from self.batches


@pytest.mark.parametrize("steps_per_dispatch", [1, 3, "auto"])
@pytest.mark.parametrize("limit", [None, 2])
def test_a_training_loader_is_begun_once_an_epoch(steps_per_dispatch, limit):
    training, validation = Counted(6), Counted(4)
    training_loop = small.training_loop(
        training=repeat(training), validation=validation, steps_per_dispatch=steps_per_dispatch
    )
    training_loop.fit(small.model(), 2, limit_batches=limit)
    assert training.begun == 2
    assert validation.begun == 1 + 2  # once to look at it, long before it is read
    training_loop.evaluate(small.model(), validation)
    assert validation.begun == 4


def test_a_validation_loader_does_not_wait_through_the_training_before_it():
    class Working(Counted):
        at_work = 0

        def __iter__(self):
            self.at_work += 1
            try:
                yield from super().__iter__()
            finally:
                self.at_work -= 1

    seen = []

    @on_host(Event.TRAINING_START, Event.VALIDATION_END)
    def look(loop, event):
        seen.append(validation.at_work)

    validation = Working(3)
    small.training_loop(validation=validation, callbacks=[look]).fit(small.model(), 2)
    assert seen == [0, 0, 0, 0]


@pytest.mark.parametrize("steps_per_dispatch", [1, "auto"])
def test_one_loader_that_is_its_own_iterator_serves_both_phases(steps_per_dispatch):
    class Rewinding(Counted):
        def __iter__(self):
            self.rest = iter(self.batches)
            return self

        def __next__(self):
            return next(self.rest)

    def fitted(batches):
        changes = {"training": [batches] * 2, "validation": batches, "steps_per_dispatch": steps_per_dispatch}
        return small.training_loop(**changes).fit(small.model(), 2)[0]

    loader = Rewinding(4)
    small.assert_trees_equal(fitted(loader), fitted(loader.batches))


def test_a_loader_that_has_no_batch_after_all_is_told():
    class Empty(Counted):
        def __iter__(self):
            return iter(())

    with pytest.raises(ValueError, match="training: it ended after 0 of the 6 batches that its length promises"):
        small.training_loop(training=[Empty(6)]).fit(small.model(), 1)
