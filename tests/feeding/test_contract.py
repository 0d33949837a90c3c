"""What the first batch fixes, and what each other must keep."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxloop.feeding.contract import contract_of

INPUT = np.arange(6, dtype=np.float32).reshape(2, 3)
TARGET = np.arange(2, dtype=np.int64)
WEIGHT = np.array([0.5, 2], np.float32)
PLAIN = contract_of((INPUT, TARGET, None), "training")
FILLED = contract_of((INPUT, TARGET, None), "validation", short="filled")


def test_the_arrays_of_a_batch_like_the_first_are_given_as_they_are():
    leaves, ready = PLAIN.fitted((INPUT, TARGET, None))
    assert (leaves[0] is INPUT, leaves[1] is TARGET, ready is PLAIN.ready) == (True, True, True)


class Foreign:
    """An array of another library."""

    def __init__(self, array):
        self.array = array

    def __array__(self, dtype=None, copy=None):
        return self.array


def test_arrays_of_others_are_like_those_of_numpy():
    leaves, ready = PLAIN.fitted((Foreign(INPUT), Foreign(TARGET), None))
    assert (leaves[0] is INPUT, leaves[1] is TARGET, ready is PLAIN.ready) == (True, True, True)


def test_a_mask_is_not_dropped_in_silence():
    unmasked, masked = np.ma.masked_array(INPUT, mask=False), np.ma.masked_inside(INPUT, 1, 4)
    leaves, _ = PLAIN.fitted((unmasked, TARGET, None))
    assert type(leaves[0]) is np.ndarray
    for take in (PLAIN.fitted, FILLED.fitted, lambda batch: contract_of(batch, "training")):
        for batch in ((masked, TARGET, None), (masked[:1], TARGET[:1], None)):
            with pytest.raises(ValueError, match=r"(training|validation): a masked array, of float32\["):
                take(batch)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ((INPUT[:1], TARGET[:1], None), r"input was float32\[2, 3\] there, now it is float32\[1, 3\]"),
        ((INPUT, TARGET.astype(np.int32), None), r"target was int64\[2\] there, now it is int32\[2\]"),
        ((INPUT, TARGET, WEIGHT), "its structure was"),
        (({"image": INPUT}, TARGET, None), "its structure was"),
        ((INPUT, None, None), "its structure was"),
        ((jnp.broadcast_to(1.0, (2, 3)), TARGET, None), r"now it is weakly typed float32\[2, 3\]"),
        ((INPUT, 3, None), "target must be an array whose first axis counts examples"),
    ],
    ids=["shape", "dtype", "weight", "structure", "nothing", "weak", "no array"],
)
def test_a_batch_that_is_not_like_it_is_refused(batch, message):
    with pytest.raises(ValueError, match=f"training: .*{message}"):
        PLAIN.fitted(batch)


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["plain", "weighted"])
def test_where_short_batches_are_filled_all_have_one_weighted_place(rows, weight):
    batch = (INPUT[:rows], TARGET[:rows], None if weight is None else weight[:rows])
    _, ready = FILLED.fitted(batch)
    assert ready is FILLED.ready
    assert ready.weight == ((2,), np.float32)


def test_weights_of_another_kind_have_a_place_of_their_own_since_they_would_not_fit():
    _, ready = FILLED.fitted((INPUT, TARGET, np.ones((2, 3), np.float32)))
    assert ready.weight == ((2, 3), np.float32)
    _, ready = FILLED.fitted((INPUT, TARGET, np.ones(2, np.float64)))
    assert ready.weight == ((2,), np.float64)


def test_a_batch_with_more_examples_than_the_first_has_a_place_of_its_own():
    larger = np.concatenate([INPUT, INPUT]), np.concatenate([TARGET, TARGET]), None
    _, ready = FILLED.fitted(larger)
    assert (ready.batch_size, ready.weight) == (4, ((4,), np.float32))


def test_several_graphs_in_a_batch_cannot_be_filled_and_get_no_weights():
    graphs = {"nodes": np.zeros((5, 2), np.float32), "graph": np.zeros(5, np.int32)}, np.zeros(3, np.int32), None
    contract = contract_of(graphs, "validation", short="filled")
    assert contract.ready.weight is None
    assert contract.batch_size == 3


def test_a_batch_that_goes_by_itself_is_as_short_as_it_comes():
    contract = contract_of((INPUT, TARGET, None), "validation", short="alone")
    _, ready = contract.fitted((INPUT[:1], TARGET[:1], None))
    assert (ready.batch_size, ready.weight, contract.one_signature) == (1, None, False)


def test_another_kind_is_warned_of_where_that_was_asked_for():
    contract = contract_of((INPUT, TARGET, None), "training", on_recompile="warn")
    with pytest.warns(UserWarning, match="training: every batch must be like the first.*A program is compiled for it"):
        _, ready = contract.fitted((INPUT[:1], TARGET[:1], None))
    assert ready.batch_size == 1


def test_a_length_that_was_not_announced_is_refused_with_what_to_announce():
    contract = contract_of((INPUT, TARGET, None), "training", lengths=(4, 8))
    with pytest.raises(ValueError, match=r"Let `lengths`, here \(4, 8\), be those that batches have after each `.map`"):
        contract.fitted((np.zeros((2, 7), np.float32), TARGET, None))


def test_what_lies_on_a_device_is_not_packed():
    assert contract_of((jnp.asarray(INPUT), jnp.asarray(TARGET), None), "training").packing is None
    assert PLAIN.packing is not None


def test_examples_are_counted_by_the_loss_once_that_is_known():
    assert (PLAIN.batch_size, contract_of((INPUT, TARGET, None), "training", examples=6).batch_size) == (2, 6)
