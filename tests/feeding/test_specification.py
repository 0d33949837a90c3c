"""What batches are like: parts, specifications, kinds."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxloop.feeding.specification import difference, parts_of, rows_of, signature_of, specification


def pairs(count):
    """Input float32[count, 2] and target int32[count], numbered."""
    return np.repeat(np.arange(count, dtype=np.float32)[:, np.newaxis], 2, axis=1), np.arange(count, dtype=np.int32)


def test_a_pair_has_no_weight():
    assert parts_of(("input", "target"), None, "training") == ("input", "target", None)


def test_a_list_is_a_batch_too():
    assert parts_of(["input", "target", "weight"], None, "training") == ("input", "target", "weight")


def test_a_mapping_is_taken_apart_by_its_keys():
    batch = {"label": 1, "image": 2, "mask": 3}
    assert parts_of(batch, ("image", "label"), "training") == (2, 1, None)
    assert parts_of(batch, ("image", "label", "mask"), "training") == (2, 1, 3)


def test_a_mapping_without_keys_is_refused_with_the_fix():
    with pytest.raises(ValueError, match=r"training: a batch is a mapping of image, label; .*batch_keys=\('image'"):
        parts_of({"image": 1, "label": 2}, None, "training")


def test_a_mapping_that_lacks_a_key_is_refused_with_those_it_has():
    with pytest.raises(ValueError, match="validation: a batch has no 'target'; it has image, label"):
        parts_of({"image": 1, "label": 2}, ("image", "target"), "validation")


@pytest.mark.parametrize(("batch", "got"), [((1,), "1 parts"), ((1, 2, 3, 4), "4 parts"), (np.zeros(3), "ndarray")])
def test_what_is_no_batch_is_refused(batch, got):
    with pytest.raises(ValueError, match=rf"must be \(input, target\) or \(input, target, weight\), got {got}"):
        parts_of(batch, None, "training")


def test_a_specification_names_each_leaf():
    batch = ({"image": np.zeros((4, 3), np.float32), "length": np.zeros(4, np.int32)}, np.zeros(4, np.int32))
    assert specification(batch).leaves == (
        ("input['image']", (4, 3), np.float32),
        ("input['length']", (4,), np.int32),
        ("target", (4,), np.int32),
    )


def test_the_specification_of_stacked_batches_is_that_of_one():
    stacked = (np.zeros((8, 4, 3), np.float32), np.zeros((8, 4), np.int32))
    assert specification(stacked, axes=2) == specification((stacked[0][0], stacked[1][0]))


def test_batches_of_one_kind_are_of_one_kind():
    assert signature_of((*pairs(4), None)) == signature_of((*pairs(4), None))


@pytest.mark.parametrize(
    "other", [(*pairs(5), None), (*pairs(4), np.ones(4)), (pairs(4)[0].astype(np.float16), pairs(4)[1], None), None]
)
def test_batches_of_another_kind_are_of_another_kind(other):
    assert signature_of(other) != signature_of((*pairs(4), None))


def test_an_array_of_weak_type_is_of_another_specification():
    strong = (jnp.zeros((2, 3)), jnp.zeros(2, jnp.int32))
    weak = (jnp.broadcast_to(jnp.asarray(0.0), (2, 3)) * 1, strong[1])
    assert weak[0].weak_type
    assert specification(weak) != specification(strong)
    said = difference(specification(weak), specification(strong), specification(strong))
    assert said == "input was float32[2, 3] there, now it is weakly typed float32[2, 3]"


def test_a_difference_in_structure_is_said_as_one():
    one, other = specification((np.zeros((2, 3)), np.zeros(2))), specification(({"a": np.zeros((2, 3))}, np.zeros(2)))
    assert difference(one, other, other).startswith("its structure was ")


@pytest.mark.parametrize(
    ("batch", "count"),
    [
        ((np.zeros((8, 3)), np.zeros(8)), 8),
        ((np.zeros((8, 3)), None), 8),
        (({"edges": np.zeros((9, 2)), "nodes": np.zeros((8, 3))}, np.zeros(2)), 2),
        (({"edges": np.zeros((9, 2)), "nodes": np.zeros((8, 3))}, np.zeros((8, 3)), np.zeros(2)), 2),
    ],
)
def test_examples_are_counted_by_the_weight_or_the_target(batch, count):
    assert specification(batch).batch_size == count
    assert rows_of(batch) == (count if count == 8 else None)


def test_an_input_may_be_alone_where_that_is_allowed():
    image = np.zeros((4, 2))
    assert parts_of(image, None, "batches", inputs_alone=True) == (image, None, None)
    assert parts_of({"image": image}, None, "batches", inputs_alone=True) == ({"image": image}, None, None)
    assert parts_of({"image": 1, "label": 2}, ("image", "label"), "batches", inputs_alone=True) == (1, 2, None)
