"""Small models of many kinds, for runs that are saved everywhere."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx

import jaxloop as jl

FEATURES = CLASSES = 5  # so that an output can be shown as an image, as an input can


class Network(nnx.Module):
    """Two layers, with batch norm and dropout: it has batch statistics and a stream of random numbers."""

    def __init__(self, rngs: nnx.Rngs, dtype: Any = jnp.float32):
        self.first = nnx.Linear(FEATURES, 8, rngs=rngs, param_dtype=dtype)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.dropout = nnx.Dropout(0.2, rngs=rngs)
        self.last = nnx.Linear(8, CLASSES, rngs=rngs, param_dtype=dtype)

    def __call__(self, input: jax.Array) -> jax.Array:
        return self.last(self.dropout(nnx.relu(self.norm(self.first(input)))))


class Linen(linen.Module):
    """The same of linen."""

    @linen.compact
    def __call__(self, input: Any, train: bool) -> Any:
        hidden = linen.BatchNorm(use_running_average=not train, momentum=0.9)(linen.Dense(8)(input))
        return linen.Dense(CLASSES)(linen.Dropout(0.2, deterministic=not train)(hidden))


def _linen() -> Any:
    return jl.Model.from_linen(
        Linen(), Linen().init(jax.random.key(0), np.zeros((1, FEATURES), np.float32), train=False)
    )


def _equinox() -> Any:
    import equinox

    class Normed(equinox.Module):
        first: Any
        norm: Any
        last: Any

        def __init__(self, key: Any):
            self.first = equinox.nn.Linear(FEATURES, 6, key=key)
            self.norm = equinox.nn.BatchNorm(6, axis_name="batch", mode="batch")
            self.last = equinox.nn.Linear(6, CLASSES, key=jax.random.fold_in(key, 1))

        def __call__(self, input: Any, state: Any) -> Any:
            hidden, state = self.norm(self.first(input), state)
            return self.last(jax.nn.relu(hidden)), state

    module, state = equinox.nn.make_with_state(Normed)(jax.random.key(0))
    params, static = equinox.partition(module, equinox.is_inexact_array)

    def apply(params: Any, state: Any, input: Any, *, training: bool, key: Any) -> Any:
        module = equinox.nn.inference_mode(equinox.combine(params, static), not training)
        state = jax.tree.map(lambda leaf: leaf, state)  # equinox lets a state be set once
        return jax.vmap(module, axis_name="batch", in_axes=(0, None), out_axes=(0, None))(input, state)

    return jl.Model(apply, params, state)


def _plain(dtype: Any) -> Any:
    random = np.random.default_rng(0)
    params = {"kernel": random.normal(size=(FEATURES, CLASSES)).astype(dtype), "bias": np.zeros(CLASSES, dtype)}

    def apply(params: Any, state: Any, input: Any, *, training: bool, key: Any) -> Any:
        output = input @ params["kernel"] + params["bias"]
        return output, {"passes": state["passes"] + 1} if training else state

    return jl.Model(apply, params, {"passes": np.int32(0)})


MODELS: dict[str, Callable[[], Any]] = {
    "nnx": lambda: Network(nnx.Rngs(0)),
    "bfloat16": lambda: Network(nnx.Rngs(0), jnp.bfloat16),
    "rbg": lambda: Network(nnx.Rngs(0, dropout=jax.random.key(5, impl="rbg"))),
    "linen": _linen,
    "equinox": _equinox,
    "plain": lambda: _plain(np.float32),
    "double": lambda: _plain(np.float64),
    "residual": lambda: _plain(np.float32),
}


def _residual(model: Any, loop: jl.Loop) -> Any:
    """A loss that draws what it needs."""
    points = jax.random.normal(loop.step_key("points"), (8, FEATURES))
    output = points @ model.params["kernel"] + model.params["bias"]
    return jnp.mean((output - 1.0) ** 2), loop.replace(output=output)


def objective(model: str) -> dict[str, Any]:
    """What a training loop is given of the loss."""
    if model == "residual":
        return {"differentiable_step": _residual}
    return {"loss_fn": jl.losses.softmax_cross_entropy}
