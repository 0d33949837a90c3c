"""The one-dimensional autoencoder of Swift for TensorFlow's model garden."""

import jax
from flax import nnx

from .mlp import MLP


class Autoencoder(nnx.Module):
    """Four dense layers reduce an image of 28x28 grey pixels to three numbers, its code, and four layers decode it.

    Hinton, Salakhutdinov: Reducing the dimensionality of data with neural networks, Science 313, 2006. There are
    rectifiers between the layers. The original also has a rectifier after the code, which can set a number of the code
    to 0 for ever, and it ends in tanh. Here the code is linear, and a sigmoid gives pixels from 0 to 1.

    Args:
      rngs: the random numbers of the first weights.
    """

    def __init__(self, *, rngs: nnx.Rngs):
        self.encoder = MLP((784, 128, 64, 12, 3), rngs=rngs)
        self.decoder = MLP((3, 12, 64, 128, 784), rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """The images that are decoded from the codes of `images`: float32[batch, 28, 28, 1] in [0, 1]."""
        return self.decode(self.encode(images))

    def encode(self, images: jax.Array) -> jax.Array:
        """The codes, float32[batch, 3], of images float32[batch, 28, 28, 1]."""
        return self.encoder(images.reshape(len(images), -1))

    def decode(self, codes: jax.Array) -> jax.Array:
        """The images, float32[batch, 28, 28, 1] in [0, 1], of codes float32[batch, 3]."""
        return nnx.sigmoid(self.decoder(codes)).reshape(-1, 28, 28, 1)
