"""Augmentation of images as a compiled callback: a part of the step's program, different for each example."""

import jax
import jax.numpy as jnp

import jaxloop as jl


def crop_and_flip(padding: int = 4) -> jl.Callback:
    """A callback that shifts and mirrors the images of each training step at random. Evaluation is not changed.

    Args:
      padding: as in `cropped_and_flipped`.

    Raises:
      ValueError: `padding` is negative.

    Example:
      >>> jl.TrainingLoop(..., callbacks=[crop_and_flip()])
    """
    if padding < 0:
        raise ValueError(f"crop_and_flip: `padding` must be a number of pixels from 0 on, got {padding}.")

    def augment(loop: jl.Loop, event: jl.Event) -> jl.Loop:
        if event is not jl.Event.BATCH_START or loop.phase is not jl.Phase.TRAINING:
            return loop
        return loop.replace(input=cropped_and_flipped(loop.step_key("augmentation"), loop.input, padding))

    return augment


def cropped_and_flipped(key: jax.Array, images: jax.Array, padding: int) -> jax.Array:
    """A random crop of each padded image, in the size of the image. Half of the images are mirrored left to right.

    Rows and columns are selected by products with matrices of zeros and ones. This is as exact as a gather. On a CPU,
    inside of fused steps, it takes a quarter of the time of a gather.

    Args:
      key: the PRNG key; the same key gives the same images.
      images: float[batch, height, width, channels].
      padding: the number of pixels of value 0 on each side. If images are normalized, 0 is the mean colour.
    """
    count, height, width, _ = images.shape
    down, across, mirror = jax.random.split(key, 3)
    top, left = (jax.random.randint(part, (count, 1), -padding, padding + 1) for part in (down, across))
    flipped = jax.random.bernoulli(mirror, 0.5, (count, 1))
    columns = jnp.where(flipped, jnp.arange(width)[::-1], jnp.arange(width))
    chosen_rows = jax.nn.one_hot(jnp.arange(height) + top, height, dtype=images.dtype)
    chosen_columns = jax.nn.one_hot(columns + left, width, dtype=images.dtype)
    return jnp.einsum("byh,bxw,bhwc->byxc", chosen_rows, chosen_columns, images, precision="highest")
