"""Augmentation: which crops there are, what follows from the key, and that evaluation goes without."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxloop as jl
from examples.datasets.augmentation import crop_and_flip, cropped_and_flipped


def numbered(*shape: int) -> np.ndarray:
    """An image of which each number is another one, and none is the 0 of the padding."""
    return np.arange(1, np.prod(shape) + 1, dtype=np.float32).reshape(shape)


def outcomes(image: np.ndarray, padding: int) -> list[bytes]:
    """Each crop of the padded image, plain and mirrored, by NumPy."""
    height, width, _ = image.shape
    padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    crops = [
        padded[top : top + height, left : left + width]
        for top in range(2 * padding + 1)
        for left in range(2 * padding + 1)
    ]
    return [made.tobytes() for crop in crops for made in (crop, crop[:, ::-1])]


def test_every_crop_and_its_mirror_image_comes_as_often_and_nothing_else_does():
    image = numbered(4, 5, 2)
    images = jnp.tile(image, (3600, 1, 1, 1))
    made = np.asarray(cropped_and_flipped(jax.random.key(0), images, 1))
    counts = dict.fromkeys(outcomes(image, 1), 0)
    for example in made:
        counts[example.tobytes()] += 1
    assert len(counts) == 18
    assert all(130 < count < 270 for count in counts.values())  # 200 each, within five standard deviations


def test_each_example_has_a_crop_of_its_own():
    images = np.stack([numbered(6, 6, 1) + 100 * index for index in range(8)])
    made = np.asarray(cropped_and_flipped(jax.random.key(0), jnp.asarray(images), 2))
    chosen = [outcomes(image, 2).index(example.tobytes()) for image, example in zip(images, made, strict=True)]
    assert len(set(chosen)) > 4


def test_without_padding_an_image_is_itself_or_its_mirror_image():
    image = numbered(2, 3, 1)
    made = cropped_and_flipped(jax.random.key(0), jnp.tile(image, (64, 1, 1, 1)), 0)
    assert {example.tobytes() for example in np.asarray(made)} == set(outcomes(image, 0))


def test_the_same_key_gives_the_same_images_and_another_one_others():
    images = jnp.tile(numbered(8, 8, 1), (16, 1, 1, 1))
    first, again = (cropped_and_flipped(jax.random.key(1), images, 4) for _ in range(2))
    other = cropped_and_flipped(jax.random.key(2), images, 4)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def seen_inputs(seed: int) -> dict[str, list[np.ndarray]]:
    """What the model is given in each batch of a fit of two epochs over one batch of four images."""
    images = np.tile(numbered(8, 8, 1), (4, 1, 1, 1))
    seen: dict[str, list[np.ndarray]] = {"training": [], "validation": []}

    @jl.on_host(jl.Event.BATCH_END, reads="step")
    def look(loop, event):
        seen[loop.phase.value].append(np.asarray(loop.input))

    training_loop = jl.TrainingLoop(
        jl.TrainingEpochs((images, np.zeros(4, np.int32)), 4),
        jl.in_batches((images, np.zeros(4, np.int32)), 4),
        optimizer=optax.sgd(0.1),
        loss_fn=jl.losses.softmax_cross_entropy,
        callbacks=[crop_and_flip(), look],
        progress=False,
    )
    model = jl.Model(
        lambda params, state, images, *, training, key: (images.reshape(len(images), -1) @ params, state),
        jnp.zeros((64, 3)),
        None,
    )
    training_loop.fit(model, 2, seed=seed)
    return seen


def test_evaluation_is_given_the_images_as_they_are():
    image = numbered(8, 8, 1)
    seen = seen_inputs(0)["validation"]
    assert len(seen) == 2
    assert all(np.array_equal(example, image) for batch in seen for example in batch)


def test_training_is_given_other_crops_in_each_step_and_the_same_in_a_run_of_the_same_seed():
    first, again, other = (seen_inputs(seed)["training"] for seed in (0, 0, 1))
    assert not np.array_equal(first[0], first[1])
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    allowed = outcomes(numbered(8, 8, 1), 4)
    assert all(example.tobytes() in allowed for batch in first for example in batch)


def test_a_negative_padding_is_refused():
    with pytest.raises(ValueError, match="`padding` must be a number of pixels from 0 on, got -1"):
        crop_and_flip(-1)
