"""A small training with a bit of everything: dropout, batch statistics, shuffling, validation, a logged rate."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxloop import losses
from jaxloop.data import TrainingEpochs, in_batches
from jaxloop.model import Model
from jaxloop.training_loop import TrainingLoop

_FEATURES, _HIDDEN, _CLASSES = 5, 8, 3
_KEPT = 0.75  # of the units that dropout may drop


@dataclass(frozen=True)
class Training:
    """What is trained in a check.

    Attributes:
      training_loop: makes the training loop; callbacks are given to its fits.
      model: makes the model.
      epochs: of each fit.
      reusable: whether one training loop can do all fits of a process. It compiles less then.
    """

    training_loop: Callable[[], TrainingLoop]
    model: Callable[[], Any]
    epochs: int
    reusable: bool = False


def small_training_loop() -> TrainingLoop:
    """Four batches of 4 examples in another order in each epoch, and as many of validation, of which the last is short.

    So three steps a dispatch leave a rest in each phase.
    """
    return TrainingLoop(
        TrainingEpochs(_samples(16, 1), batch_size=4, seed=3),
        in_batches(_samples(14, 2), 4),
        optimizer=optax.inject_hyperparams(optax.adamw)(learning_rate=0.02),
        loss_fn=losses.softmax_cross_entropy,
        metrics=["accuracy"],
        progress=False,
    )


def small_model() -> Model:
    """Two layers, with batch normalization and dropout between them."""
    random = np.random.default_rng(0)
    params = {
        "first": random.normal(size=(_FEATURES, _HIDDEN)).astype(np.float32),
        "last": random.normal(size=(_HIDDEN, _CLASSES)).astype(np.float32),
        "bias": np.zeros(_CLASSES, np.float32),
    }
    return Model(_apply, params, {"mean": np.zeros(_HIDDEN, np.float32), "variance": np.ones(_HIDDEN, np.float32)})


def _apply(params: Any, state: Any, input: Any, *, training: bool, key: Any) -> tuple[Any, Any]:
    hidden = input @ params["first"]
    mean, variance = state["mean"], state["variance"]
    if training:
        mean, variance = hidden.mean(axis=0), hidden.var(axis=0)
        state = {"mean": 0.9 * state["mean"] + 0.1 * mean, "variance": 0.9 * state["variance"] + 0.1 * variance}
    hidden = jax.nn.relu((hidden - mean) * jax.lax.rsqrt(variance + 1e-5))
    if training:
        hidden = jnp.where(jax.random.bernoulli(key, _KEPT, hidden.shape), hidden / _KEPT, 0)
    return hidden @ params["last"] + params["bias"], state


def _samples(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.normal(size=(count, _FEATURES)).astype(np.float32), random.integers(0, _CLASSES, count, np.int32)
