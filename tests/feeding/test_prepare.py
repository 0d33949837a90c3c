"""What a step's program begins with: the gather, the compiled maps, and the weight of padding."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxloop.feeding.prepare import Prepare

IMAGES = jnp.arange(12, dtype=jnp.uint8).reshape(6, 2)
LABELS = jnp.arange(6, dtype=jnp.int32)


def as_floats(batch):
    images, labels = batch
    return images / 255, labels


def prepare(*, gathers=False, transforms=(), batch_keys=None):
    return Prepare(gathers, transforms, batch_keys, "training")


def test_indices_become_the_samples_that_they_point_at():
    input, target, weight = prepare(gathers=True)((IMAGES, LABELS), (jnp.array([4, 0]), None, None))
    assert (input.tolist(), target.tolist(), weight) == ([[8, 9], [0, 1]], [4, 0], None)


def test_maps_follow_each_other_behind_the_gather():
    def doubled(batch):
        return batch[0] * 2, batch[1]

    made = prepare(gathers=True, transforms=(as_floats, doubled))
    input, _, _ = made((IMAGES, LABELS), (jnp.array([4, 0]), None, None))
    np.testing.assert_allclose(input, np.array([[8, 9], [0, 1]]) / 255 * 2, rtol=1e-6)


def test_what_travels_without_samples_on_the_device_is_the_batch():
    input, target, _ = prepare(transforms=(as_floats,))(None, ((IMAGES[:2], LABELS[:2]), None, None))
    np.testing.assert_allclose(input, IMAGES[:2] / 255)
    assert target.tolist() == [0, 1]


def test_a_mapping_gives_its_parts_by_name():
    made = prepare(batch_keys=("image", "label"))
    input, target, weight = made(None, ({"image": IMAGES, "label": LABELS}, None, None))
    assert (input is IMAGES, target is LABELS, weight) == (True, True, None)


@pytest.mark.parametrize("shape", [(3,), (3, 2)])
def test_padding_takes_its_weight_from_what_the_batch_weighs(shape):
    padding = jnp.array([1.0, 1.0, 0.0])
    batch = jnp.ones(3), jnp.ones(3), jnp.full(shape, 0.5)
    _, _, weight = prepare()(None, (batch, None, padding))
    np.testing.assert_array_equal(weight[:2], np.full((2, *shape[1:]), 0.5))
    np.testing.assert_array_equal(weight[2], np.zeros(shape[1:]))


def test_without_weights_padding_is_the_weight():
    padding = jnp.array([1.0, 0.0])
    _, _, weight = prepare()(None, ((jnp.ones(2), jnp.ones(2)), None, padding))
    assert weight is padding


def test_equal_ones_are_one_to_the_programs():
    one, other = (prepare(gathers=True, transforms=(as_floats,)) for _ in range(2))
    assert (one == other, hash(one)) == (True, hash(other))
    assert one != prepare(gathers=True)
