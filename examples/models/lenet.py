"""LeNet-5, as in Swift for TensorFlow's model garden."""

import jax
from flax import nnx


class LeNet(nnx.Module):
    """Two convolutions with average pooling and three dense layers give ten logits for an image of 28x28 grey pixels.

    LeCun, Bottou, Bengio, Haffner: Gradient-based learning applied to document recognition, Proceedings of the
    IEEE 86(11), 1998. Here there are rectifiers in place of sigmoids, and every map of the second convolution is
    connected to all maps of the first.

    Args:
      rngs: the random numbers of the first weights.
    """

    def __init__(self, *, rngs: nnx.Rngs):
        self.convolution1 = nnx.Conv(1, 6, (5, 5), padding="SAME", rngs=rngs)
        self.convolution2 = nnx.Conv(6, 16, (5, 5), padding="VALID", rngs=rngs)
        self.dense1 = nnx.Linear(400, 120, rngs=rngs)
        self.dense2 = nnx.Linear(120, 84, rngs=rngs)
        self.dense3 = nnx.Linear(84, 10, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """The logits, float32[batch, 10], of images float32[batch, 28, 28, 1]."""
        x = nnx.relu(self.convolution1(images))
        x = nnx.avg_pool(x, (2, 2), strides=(2, 2))
        x = nnx.relu(self.convolution2(x))
        x = nnx.avg_pool(x, (2, 2), strides=(2, 2))
        x = x.reshape(len(x), -1)
        x = nnx.relu(self.dense1(x))
        x = nnx.relu(self.dense2(x))
        return self.dense3(x)
