"""A network of dense layers."""

import itertools
from collections.abc import Sequence

import jax
from flax import nnx


class MLP(nnx.Module):
    """Dense layers with rectifiers between them.

    Args:
      sizes: the sizes of the input, of each hidden layer and of the output.
      rngs: the random numbers of the first weights.
    """

    def __init__(self, sizes: Sequence[int], *, rngs: nnx.Rngs):
        self.layers = nnx.List(nnx.Linear(inner, outer, rngs=rngs) for inner, outer in itertools.pairwise(sizes))

    def __call__(self, x: jax.Array) -> jax.Array:
        """float32[batch, sizes[-1]] from float32[batch, sizes[0]]."""
        for layer in self.layers[:-1]:
            x = nnx.relu(layer(x))
        return self.layers[-1](x)
