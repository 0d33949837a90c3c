"""A variational autoencoder of dense layers, and its two losses."""

import jax
import jax.numpy as jnp
import optax
from flax import nnx

Output = tuple[jax.Array, jax.Array, jax.Array]


class VAE(nnx.Module):
    """An encoder and a decoder with one hidden layer each, for images of 28x28 grey pixels.

    Kingma, Welling: Auto-encoding variational Bayes, ICLR 2014. The encoder gives a normal distribution of codes for
    each image. The decoder gives the logit of each pixel for a code.

    Args:
      code_size: the number of numbers in a code.
      hidden_size: the size of both hidden layers.
      rngs: the random numbers of the first weights.
    """

    def __init__(self, code_size: int = 20, hidden_size: int = 400, *, rngs: nnx.Rngs):
        self.code_size = code_size
        self.encoder = nnx.Linear(784, hidden_size, rngs=rngs)
        self.mean = nnx.Linear(hidden_size, code_size, rngs=rngs)
        self.log_variance = nnx.Linear(hidden_size, code_size, rngs=rngs)
        self.decoder = nnx.Linear(code_size, hidden_size, rngs=rngs)
        self.pixels = nnx.Linear(hidden_size, 784, rngs=rngs)

    def __call__(self, images_and_noise: tuple[jax.Array, jax.Array]) -> Output:
        """The logits of the pixels, for codes that are drawn as `mean + noise * standard deviation`.

        Args:
          images_and_noise: float32[batch, 28, 28, 1] in [0, 1], and float32[batch, code_size], standard normal. If the
            noise is zero, the code is the mean.

        Returns:
          Logits, float32[batch, 28, 28, 1]; mean and logarithm of the variance, each float32[batch, code_size].
        """
        images, noise = images_and_noise
        hidden = nnx.relu(self.encoder(images.reshape(len(images), -1)))
        mean, log_variance = self.mean(hidden), self.log_variance(hidden)
        codes = mean + noise * jnp.exp(log_variance / 2)
        return self.decode(codes), mean, log_variance

    def decode(self, codes: jax.Array) -> jax.Array:
        """The logits, float32[batch, 28, 28, 1], of codes float32[batch, code_size]."""
        return self.pixels(nnx.relu(self.decoder(codes))).reshape(-1, 28, 28, 1)


def reconstruction_loss(output: Output, images: jax.Array) -> jax.Array:
    """The cross entropy between the pixels and the decoded logits, summed over an image: float32[batch], in nats."""
    return optax.losses.sigmoid_binary_cross_entropy(output[0], images).sum(axis=(1, 2, 3))


def divergence(output: Output, images: jax.Array) -> jax.Array:
    """The Kullback-Leibler divergence of an image's codes from the standard normal: float32[batch], in nats.

    `sum_i (mean_i**2 + variance_i - 1 - log variance_i) / 2`, appendix B of the paper.
    """
    _, mean, log_variance = output
    return (mean**2 + jnp.exp(log_variance) - 1 - log_variance).sum(axis=-1) / 2
