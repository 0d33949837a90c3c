"""Who trains: loops by hand and `fit`. A new contestant is a function here and an entry in CONTESTANTS.

`prepare(workload, epochs)` gives a turn; each call of the turn trains the workload once from its first weights. What
is compiled is kept from turn to turn, so that it falls into the warm-up.
"""

import functools
import io
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxloop as jl
from benchmarks.workloads import WORKLOADS, Workload, loss_fn

REFERENCE = "by_hand"


@dataclass(frozen=True)
class Outcome:
    """What a training has led to; all contestants must agree on it.

    Attributes:
      params: PyTree of arrays.
      loss: mean over each epoch, float[epochs].
      accuracy: likewise.
    """

    params: Any
    loss: np.ndarray
    accuracy: np.ndarray


Turn = Callable[[], Outcome]


@dataclass(frozen=True)
class Contestant:
    """One way to train a workload.

    Attributes:
      name: as in tables and filters.
      prepare: gives the turn for a workload and a number of epochs.
      workloads: the names of those it takes part in.
      rival: a second contestant that it is compared with, besides the reference.
    """

    name: str
    prepare: Callable[[Workload, int], Turn]
    workloads: tuple[str, ...] = tuple(WORKLOADS)
    rival: str | None = None


def by_hand(workload: Workload, epochs: int) -> Turn:
    """The best plain loop: jitted, donated, loss and accuracy summed on the device and fetched once an epoch."""
    step = jax.jit(functools.partial(_step, workload), donate_argnums=0)

    def train_epoch(carry: Any, batches: jl.Batches) -> Any:
        for batch in batches:
            carry = step(carry, batch)
        return carry

    return _turn_by_hand(workload, epochs, train_epoch)


def scan_by_hand(workload: Workload, epochs: int, *, length: int) -> Turn:
    """The same with `length` steps in one program by `lax.scan`, over batches gathered in one go."""

    def steps(carry: Any, batches: Any) -> Any:
        return jax.lax.scan(lambda carry, batch: (_step(workload, carry, batch), None), carry, batches)[0]

    jitted = jax.jit(steps, donate_argnums=0)

    def train_epoch(carry: Any, batches: jl.Batches) -> Any:
        for start in range(0, len(batches), length):
            carry = jitted(carry, batches.stacked(start, min(length, len(batches) - start)))
        return carry

    return _turn_by_hand(workload, epochs, train_epoch)


def fit(workload: Workload, epochs: int, *, steps_per_dispatch: int) -> Turn:
    """`fit` as it comes: loss, accuracy, the history's row for each batch, and the console's line for each epoch."""
    training_loop = _training_loop(workload, steps_per_dispatch)
    callbacks = [jl.callbacks.ProgressBar(_Sink(terminal=False))]
    return lambda: _fitted(training_loop, workload, epochs, callbacks)


def logged_fit(workload: Workload, epochs: int, *, steps_per_dispatch: int) -> Turn:
    """`fit` with a row for each batch in a CSV file and a bar on a terminal."""
    training_loop = _training_loop(workload, steps_per_dispatch)
    bar = jl.callbacks.ProgressBar(_Sink(terminal=True))

    def turn() -> Outcome:
        with tempfile.TemporaryDirectory(prefix="benchmarks-") as folder:
            logger = jl.callbacks.CSVLogger(Path(folder) / "log.csv")
            return _fitted(training_loop, workload, epochs, [bar, logger])

    return turn


CONTESTANTS = (
    Contestant(REFERENCE, by_hand),
    Contestant("scan_32", functools.partial(scan_by_hand, length=32), workloads=("W1",)),
    Contestant("fit_1", functools.partial(fit, steps_per_dispatch=1)),
    Contestant("fit_1_logged", functools.partial(logged_fit, steps_per_dispatch=1), rival="fit_1"),
    Contestant("fit_32", functools.partial(fit, steps_per_dispatch=32), workloads=("W1",), rival="scan_32"),
    Contestant("fit_32_logged", functools.partial(logged_fit, steps_per_dispatch=32), ("W1",), rival="fit_32"),
)


def _step(workload: Workload, carry: Any, batch: Any) -> Any:
    """One step of training as one would write it. The carry: params, state, opt_state and the epoch's sums."""
    params, state, opt_state, sums = carry
    input, labels = batch

    def mean_loss(params: Any) -> tuple[jax.Array, Any]:
        logits, after = workload.model.apply(params, state, input, training=True, key=None)
        return loss_fn(logits, labels).mean(), (logits, after)

    (loss, (logits, state)), gradient = jax.value_and_grad(mean_loss, has_aux=True)(params)
    updates, opt_state = workload.optimizer.update(gradient, opt_state, params)
    accuracy = (logits.argmax(axis=-1) == labels).mean()
    sums = {"loss": sums["loss"] + loss, "accuracy": sums["accuracy"] + accuracy}
    return optax.apply_updates(params, updates), state, opt_state, sums


def _turn_by_hand(workload: Workload, epochs: int, train_epoch: Callable[[Any, jl.Batches], Any]) -> Turn:
    training = workload.training()
    init_optimizer = jax.jit(workload.optimizer.init)

    def turn() -> Outcome:
        params, state = jax.device_put((workload.model.params, workload.model.state), may_alias=False)
        opt_state = init_optimizer(params)
        epoch_sums = []
        for epoch_index in range(epochs):
            sums = {"loss": jnp.float32(0), "accuracy": jnp.float32(0)}
            carry = (params, state, opt_state, sums)
            params, state, opt_state, sums = train_epoch(carry, training[epoch_index])
            epoch_sums.append(jax.device_get(sums))
        loss, accuracy = (
            np.array([sums[name] for sums in epoch_sums]) / workload.step_count for name in ("loss", "accuracy")
        )
        return Outcome(params, loss, accuracy)

    return turn


def _training_loop(workload: Workload, steps_per_dispatch: int) -> jl.TrainingLoop:
    """What `fit` is called on; without the console that it brings, in whose place stands a bar on a `_Sink`."""
    return jl.TrainingLoop(
        workload.training(),
        optimizer=workload.optimizer,
        loss_fn=loss_fn,
        metrics=["accuracy"],
        progress=False,
        steps_per_dispatch=steps_per_dispatch,
    )


def _fitted(training_loop: jl.TrainingLoop, workload: Workload, epochs: int, callbacks: list[Any]) -> Outcome:
    loop, history = training_loop.fit(workload.model, epochs, callbacks=callbacks)
    return Outcome(loop.model.params, history.epochs["loss"], history.epochs["accuracy"])


class _Sink(io.StringIO):
    """A stream that keeps nothing."""

    def __init__(self, *, terminal: bool):
        super().__init__()
        self._terminal = terminal

    def write(self, text: str) -> int:
        return len(text)

    def isatty(self) -> bool:
        return self._terminal
