"""The one-dimensional autoencoder of Swift for TensorFlow's model garden."""

import jax
from flax import nnx

from .mlp import MLP


class Autoencoder(nnx.Module):
    """Four dense layers that narrow an image of 28x28 grey pixels to three numbers, its code, and four that widen it.

    Hinton, Salakhutdinov: Reducing the dimensionality of data with neural networks, Science 313, 2006. Rectifiers
    stand between the layers. The original has one behind the code too, which can leave numbers of it at 0 for good, and
    ends in tanh; here the code is linear, and a sigmoid keeps to pixels from 0 to 1.

    Args:
      rngs: of the first weights.
    """

    def __init__(self, *, rngs: nnx.Rngs):
        self.encoder = MLP((784, 128, 64, 12, 3), rngs=rngs)
        self.decoder = MLP((3, 12, 64, 128, 784), rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """The images made anew from their codes: float32[batch, 28, 28, 1] in [0, 1], of the same shape."""
        return self.decode(self.encode(images))

    def encode(self, images: jax.Array) -> jax.Array:
        """The codes, float32[batch, 3], of images float32[batch, 28, 28, 1]."""
        return self.encoder(images.reshape(len(images), -1))

    def decode(self, codes: jax.Array) -> jax.Array:
        """The images, float32[batch, 28, 28, 1] in [0, 1], that codes float32[batch, 3] stand for."""
        return nnx.sigmoid(self.decoder(codes)).reshape(-1, 28, 28, 1)
