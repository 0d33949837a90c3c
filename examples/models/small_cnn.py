"""A small convolutional network for images of 8x8 pixels."""

import jax
from flax import nnx


class SmallCNN(nnx.Module):
    """Two convolutions, pooling, dropout, and two dense layers give ten logits for 8x8 grey pixels.

    Args:
      rngs: the random numbers of the first weights and of dropout.
    """

    def __init__(self, *, rngs: nnx.Rngs):
        self.convolution1 = nnx.Conv(1, 16, (3, 3), padding="SAME", rngs=rngs)
        self.convolution2 = nnx.Conv(16, 32, (3, 3), padding="SAME", rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.dense1 = nnx.Linear(4 * 4 * 32, 64, rngs=rngs)
        self.dense2 = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """The logits, float32[batch, 10], of images float32[batch, 8, 8, 1]."""
        x = nnx.relu(self.convolution1(images))
        x = nnx.relu(self.convolution2(x))
        x = nnx.max_pool(x, (2, 2), strides=(2, 2))
        x = self.dropout(x.reshape(len(x), -1))
        x = nnx.relu(self.dense1(x))
        return self.dense2(x)
