"""An optimizer that writes down the rates it was given, and a training loop around it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxloop as jl
from tests import small


class Seen(NamedTuple):
    """The state of `spy`: how many updates there were, and the rate that each was given."""

    count: jax.Array
    rates: jax.Array


def spy(learning_rate: Any) -> optax.GradientTransformation:
    """Plain SGD that writes down the rate it was given."""

    def init(params: Any) -> Seen:
        return Seen(jnp.zeros([], jnp.int32), jnp.full(64, jnp.nan))

    def update(updates: Any, state: Seen, params: Any = None) -> tuple[Any, Seen]:
        updates = jax.tree.map(lambda leaf: -learning_rate * leaf, updates)
        return updates, Seen(state.count + 1, state.rates.at[state.count].set(learning_rate))

    return optax.GradientTransformation(init, update)


def given_to_the_spy(loop: jl.Loop) -> list[float]:
    return np.asarray(loop.opt_state.inner_state.rates)[: int(loop.step)].tolist()


def scheduled(*callbacks: Any, **changes: Any) -> jl.TrainingLoop:
    """Three batches an epoch, the optimizer a spy."""
    options = {"validation": None, "optimizer": optax.inject_hyperparams(spy)(learning_rate=0.5)}
    return small.training_loop(callbacks=list(callbacks), **(options | changes))
