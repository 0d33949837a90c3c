"""Feeding: from a user's data to what the programs take."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxloop import TrainingLoop
from jaxloop.data import TrainingEpochs, in_batches
from jaxloop.feeding.feed import Feed
from jaxloop.feeding.reading import Reader
from jaxloop.feeding.source import Peekable
from jaxloop.losses import softmax_cross_entropy
from jaxloop.placement import resolve
from tests import small


def pairs(count):
    """Input float32[count, 2] and target int32[count], numbered."""
    return np.repeat(np.arange(count, dtype=np.float32)[:, np.newaxis], 2, axis=1), np.arange(count, dtype=np.int32)


def feed(batches, *, padded=False, batch_keys=None, short="refused", on_recompile="raise"):
    """The feed of batches of which the first was seen."""
    unseen = Feed(Peekable(batches), Reader("training", batch_keys), resolve(None))
    return unseen.begun(short="filled" if padded else short, on_recompile=on_recompile)


def as_arrays(chunk, batch):
    """A chunk's batch as its arrays, packed or not."""
    return batch if chunk.packing is None else jax.tree.map(np.asarray, chunk.packing.split(batch))


def targets(chunks):
    unpacked = ((chunk.steps, as_arrays(chunk, batch)) for chunk, batch in chunks)
    return [(steps, np.asarray(target).tolist()) for steps, (_, target, _) in unpacked]


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


@pytest.mark.parametrize("steps", [2, 3])
def test_jax_arrays_are_stacked_on_their_device_and_never_come_down(steps, monkeypatch):
    device = resolve(None).device
    batches = [tuple(jax.device_put(part, device) for part in batch) for batch in in_batches(pairs(12), 2)]
    one, read = feed(batches), []
    monkeypatch.setattr(type(batches[0][0]), "__array__", lambda array, *_, **__: read.append(array))
    chunks = list(one.chunks(steps))
    assert read == []
    monkeypatch.undo()
    assert all(isinstance(part, jax.Array) for _, chunk in chunks for part in jax.tree.leaves(chunk))
    found = np.concatenate([np.ravel(target) for _, target in targets(chunks)])
    np.testing.assert_array_equal(found, np.arange(12))


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_a_padded_feed_fills_the_last_batch_with_what_weighs_nothing(steps):
    chunks = list(feed(in_batches(pairs(5), 2), padded=True).chunks(steps))
    inputs, labels, weights = (
        np.concatenate([np.reshape(batch[part], (-1, 2)) for _, batch in chunks]) for part in range(3)
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
    assert targets(padded.agreeing(short="alone").chunks(1)) == [(1, [0, 1]), (1, [2, 3]), (1, [4])]


def test_a_feed_knows_its_batch_size_once_a_batch_was_read():
    one = feed(in_batches(pairs(5), 2))
    assert (one.agreed.batch_size, len(one)) == (2, 3)


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


@pytest.mark.parametrize(
    ("batch", "short"), [(pairs(1), True), (pairs(3), False), (other_batches()["dtype"][0], False)]
)
def test_a_short_batch_is_refused_with_what_leaves_it_out(batch, short):
    with pytest.raises(ValueError, match="training: every batch must be like the first") as caught:
        list(feed([pairs(2), batch]).chunks(1))
    assert ("drop_last=True" in str(caught.value)) == short


@pytest.mark.parametrize("other", [({"a": pairs(2)[0]}, pairs(2)[1]), ((pairs(2)[0],) * 2, pairs(2)[1])])
def test_a_batch_of_another_structure_is_refused_in_our_own_words(other):
    with pytest.raises(ValueError, match="training: every batch must be like the first"):
        list(feed([pairs(2), other]).chunks(1))


@pytest.mark.parametrize("batch", [([[1.0, 2.0], [3.0, 4.0]], [0, 1]), (pairs(2)[0], np.float32(1))])
def test_a_leaf_without_a_leading_axis_is_refused_by_name(batch):
    with pytest.raises((TypeError, ValueError), match=r"training: .*(input|target)"):
        feed([batch])


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
    assert [(chunk.steps, batch[0].shape) for chunk, batch in chunks] == [
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


@pytest.mark.parametrize("source", [*SOURCES, "on the device"])
def test_batches_of_one_kind_are_stacked_alike_wherever_they_come_from(source):
    sources = SOURCES | {"on the device": lambda batches: [tuple(map(jnp.asarray, batch)) for batch in batches]}
    one = feed(sources[source](in_batches(pairs(10), 2)))
    expected = [(0, 1, 2, 3), (4, 5, 6, 7), (8, 9)] if source != "reusing" else [(0, 0, 1, 1), (2, 2, 3, 3), (4, 4)]
    found = [(count, np.ravel(target).tolist()) for count, target in targets(one.chunks(2))]
    assert found == [(count, list(labels)) for count, labels in zip([2, 2, 1], expected, strict=True)]


@pytest.mark.parametrize("batch", [(pairs(2)[0], pairs(2)[1].astype(np.int8)), (*pairs(2), np.ones(2, np.float32))])
def test_a_batch_of_another_kind_among_stacked_ones_is_refused_when_the_first_was_seen(batch):
    one = feed([pairs(2), pairs(2), batch])
    with pytest.raises(ValueError, match="training: every batch must be like the first"):
        list(one.chunks(3))


def test_arrays_of_weak_type_are_stacked_as_what_they_are():
    weak = jnp.broadcast_to(1.5, (2, 2)), jnp.broadcast_to(1, (2,))
    (chunk, (input, target, _)), _ = feed([weak] * 3).chunks(2)
    assert (weak[0].weak_type, chunk.steps, input.dtype, target.tolist()) == (True, 2, np.float32, [[1, 1], [1, 1]])


def test_a_loader_that_ends_early_gives_what_there_is_and_is_told():
    class Short(Loader):
        def __len__(self):
            return self.count + 2

    chunks = feed(Short(3)).chunks(4)
    assert [next(chunks)[0].steps] == [3]
    with pytest.raises(ValueError, match="ended after 3 of the 5 batches"):
        next(chunks)


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("source", SOURCES)
def test_packed_batches_are_those_that_are_not_and_the_program_is_made_for_them(source, steps):
    batches = SOURCES[source](in_batches(pairs(10), 2))
    one, plain = feed(batches), list(SOURCES[source](in_batches(pairs(10), 2)))
    assert one.agreed.packing is not None
    position = 0
    for chunk, batch in one.chunks(steps):
        like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), batch)
        assert like == chunk.abstract == one.expected(chunk.steps).abstract
        assert (chunk.packing is not None) == (chunk.steps == 1)
        together = jax.tree.map(lambda leaf: leaf[np.newaxis], as_arrays(chunk, batch)) if chunk.packing else batch
        if source != "reusing":
            expected = [jax.tree.map(np.asarray, batch) for batch in plain[position : position + chunk.steps]]
            stacked = tuple(np.stack(parts) for parts in zip(*expected, strict=True))
            small.assert_trees_equal(together[: len(stacked)], stacked)
        else:
            assert np.ravel(together[1]).tolist() == list(np.repeat(range(position, position + chunk.steps), 2))
        if chunk.packing is not None:
            small.assert_trees_equal(chunk.packing.unpack(batch), as_arrays(chunk, batch))
        position += chunk.steps
    assert position == 5


def test_batches_by_name_are_packed_by_their_parts():
    input, target = pairs(6)
    batches = in_batches({"id": target * 10, "label": target, "image": input}, 2)
    named = feed(batches, batch_keys=("image", "label"))
    chunks = list(named.chunks(1))
    assert all(chunk.packing is not None for chunk, _ in chunks)
    assert targets(chunks) == [(1, [0, 1]), (1, [2, 3]), (1, [4, 5])]
    assert as_arrays(*chunks[1])[0].tolist() == [[2, 2], [3, 3]]


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
    one = feed(batches)
    chunk, batch = next(one.chunks(1))
    assert (one.agreed.packing, chunk.packing, len(batch)) == (None, None, 3)


@pytest.mark.parametrize("changes", [{"padded": True}, {"short": "alone"}, {"on_recompile": "warn"}], ids=repr)
def test_where_batches_may_be_of_several_kinds_none_is_packed(changes):
    assert feed(in_batches(pairs(6), 2), **changes).agreed.packing is None


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("kind", [list, lambda batches: batches], ids=["list", "batches"])
def test_a_short_batch_in_training_is_refused(kind, steps):
    with pytest.raises(ValueError, match=r"training: every batch must be like the first; input was float32\[3, 2\]"):
        list(feed(kind(in_batches(pairs(7), 3))).chunks(steps))


@pytest.mark.parametrize("steps", [1, 2])
def test_a_weight_that_comes_later_is_refused(steps):
    with pytest.raises(ValueError, match=r"training: every batch must be like the first; its structure was"):
        list(feed([pairs(2), (*pairs(2), np.ones(2, np.float32))]).chunks(steps))


def test_in_one_process_a_model_is_made_by_the_first_batch():
    one = feed(Loader(3))
    assert [leaf.tolist() for leaf in jax.tree.leaves(one.probe())] == [
        leaf.tolist() for leaf in jax.tree.leaves(one.first())
    ]


def test_single_batches_tell_which_rows_are_examples():
    one = feed(in_batches(pairs(5), 2), padded=True)
    assert [(rows, batch[1][rows].tolist()) for rows, batch in one.singles()] == [
        (slice(2), [0, 1]),
        (slice(2), [2, 3]),
        (slice(1), [4]),
    ]


def test_what_processes_must_agree_on_is_told_as_text():
    found = feed(in_batches(pairs(6), 2)).agreement()
    assert found["training: a batch"] == "input float32[2, 2], target int32[2]; of 2 examples"
    assert found["training: how many batches"] == "3"
    other = feed(in_batches((pairs(6)[0], pairs(6)[1] + 1), 2)).agreement()
    assert {key for key in found if found[key] != other[key]} == {"training: samples and their order"}
    assert set(feed(Loader(3)).agreement()) == {"training: a batch", "training: how many batches"}
