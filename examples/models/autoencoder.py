"""The one-dimensional autoencoder of Swift for TensorFlow's model garden."""

import jax
from flax import nnx

SIZES = (784, 128, 64, 12, 3, 12, 64, 128, 784)


class Autoencoder(nnx.Module):
    """Eight dense layers that narrow an image of 28x28 grey pixels to three numbers, its code, and widen it again.

    Hinton, Salakhutdinov: Reducing the dimensionality of data with neural networks, Science 313, 2006. Rectifiers
    stand between the layers. Where the original ends in tanh, a sigmoid keeps to pixels from 0 to 1; and the code has
    no rectifier, which would leave a third of it at 0 for good where one of its numbers starts out negative.

    Args:
      rngs: of the first weights.
    """

    def __init__(self, *, rngs: nnx.Rngs):
        layers = [nnx.Linear(inner, outer, rngs=rngs) for inner, outer in zip(SIZES, SIZES[1:], strict=False)]
        self.encoder = nnx.List(layers[:4])
        self.decoder = nnx.List(layers[4:])

    def __call__(self, images: jax.Array) -> jax.Array:
        """The images made anew from their codes, of the same shape, float32[batch, 28, 28, 1] in [0, 1]."""
        return self.decode(self.encode(images)).reshape(images.shape)

    def encode(self, images: jax.Array) -> jax.Array:
        """The codes, float32[batch, 3]."""
        return _dense(self.encoder, images.reshape(len(images), -1))

    def decode(self, codes: jax.Array) -> jax.Array:
        """The pixels that `codes` stand for, float32[batch, 784] in [0, 1]."""
        return nnx.sigmoid(_dense(self.decoder, codes))


def _dense(layers: nnx.List, x: jax.Array) -> jax.Array:
    """`x` through the layers, with a rectifier behind each but the last."""
    for layer in layers[:-1]:
        x = nnx.relu(layer(x))
    return layers[-1](x)
