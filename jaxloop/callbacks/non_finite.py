"""Losses and gradients that are not finite: they end the fit, or their updates are skipped."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxloop.callback import Callback, on_host
from jaxloop.errors import NonFiniteError
from jaxloop.events import Event, Scope, should_run
from jaxloop.loop import Loop
from jaxloop.losses import weighted_mean

_NAME = "non_finite"


def stop_on_non_finite(*, skip: bool = False) -> Callback:
    """Ends the fit with a `NonFiniteError` before an update with a NaN or an infinity, or skips such updates.

    At UPDATE_START it checks the mean loss of the batch and the gradient, as the callbacks before it have left them.
    Put it first to learn which array the model made wrong. Put it last to check what the optimizer gets.

    The update is not made: parameters and optimizer state stay those of the step before. The rest of the dispatch
    changes nothing. All END events come, and every row is logged. Then `fit` raises. The message names the step and the
    first array that is not finite: the loss comes first, then the gradient's leaves in the order of the parameters.
    `error.loop` holds the last good parameters, with one exception: an update with finite gradients can make the
    parameters overflow. This is checked at TRAINING_END, and ends the fit in the same way.
    `early_stopping(restore_best=True)` then puts the best model into `error.loop`.

    With `skip=True` it cancels the batch instead, and the fit goes on. It records the number of batches that were
    skipped in this fit as `"skipped_updates"`.

    With `train_step` and `run_steps` there is no exception: `loop.stop` then holds `Scope.FIT`.

    Args:
      skip: whether to skip such updates and go on.

    Example:
      >>> callbacks = [jl.callbacks.stop_on_non_finite()]
      >>> training_loop = jl.TrainingLoop(epochs, optimizer=optimizer, loss_fn=loss_fn, callbacks=callbacks)
    """
    return _StopOnNonFinite(skip)


@dataclass(frozen=True)
class _StopOnNonFinite:
    """The compiled half. It cannot raise: its companion does, when the fit is over."""

    skip: bool
    __name__ = "stop_on_non_finite"

    def __call__(self, loop: Loop, event: Event) -> Loop:
        if event is Event.FIT_START:
            nothing = dict.fromkeys(("step", "epoch", "batch", "skipped"), np.int32(0))
            return loop.remember(_NAME, {"array": np.int32(-1), **nothing})
        if event is Event.UPDATE_START:
            finite = _finite([weighted_mean(loop.loss, loop.weight), *jax.tree.leaves(loop.gradient)])
            return _skipping(loop, finite) if self.skip else _stopping(loop, finite, first=0, taken=1)
        if event is Event.TRAINING_END:
            params = jax.tree.leaves(loop.model.params)
            return _stopping(loop, _finite(params), first=1 + len(params), taken=0)
        return loop

    @property
    def companion(self) -> Any:
        """The host callback that raises."""
        return _Raising()


def _finite(arrays: list[Any]) -> jax.Array:
    """bool[arrays]: whether each array is finite."""
    return jnp.stack([jnp.all(jnp.isfinite(array)) for array in arrays])


def _skipping(loop: Loop, finite: jax.Array) -> Loop:
    bad = ~jnp.all(finite) & should_run(loop.stop, loop.phase)
    memory = loop.callback_state[_NAME]
    skipped = memory["skipped"] + bad.astype(jnp.int32)
    loop = loop.replace(callback_state=loop.callback_state | {_NAME: memory | {"skipped": skipped}})
    return loop.record("skipped_updates", skipped).cancel(Scope.BATCH, when=bad)


def _stopping(loop: Loop, finite: jax.Array, *, first: int, taken: int) -> Loop:
    """The loop, with its fit cancelled and the place remembered if an array is not finite. The first place stays.

    Args:
      loop: in training.
      finite: bool[arrays].
      first: the index in `_names` of the first of these arrays.
      taken: what turns counters from 0 into counters from 1: 1 in a step, and 0 after it, when they have advanced.
    """
    memory = loop.callback_state[_NAME]
    bad = ~jnp.all(finite) & ((taken == 0) | should_run(loop.stop, loop.phase)) & (memory["array"] < 0)
    place = {
        "array": first + jnp.argmin(finite).astype(jnp.int32),
        "step": loop.step + taken,
        "epoch": loop.epoch,
        "batch": loop.batch_index + taken,
    }
    memory = memory | {name: jnp.where(bad, value, memory[name]) for name, value in place.items()}
    return loop.replace(callback_state=loop.callback_state | {_NAME: memory}).cancel(Scope.FIT, when=bad)


@on_host(Event.FIT_END, reads="loop")
class _Raising:
    """The half on the host. It raises where the compiled half has stopped the fit."""

    __name__ = "stop_on_non_finite"

    def __call__(self, loop: Loop, event: Event) -> None:
        memory = {name: int(value) for name, value in loop.callback_state[_NAME].items()}
        if memory["array"] < 0:
            return
        names = _names(loop.model.params)
        what = names[memory["array"]]
        place = f"step {memory['step']} (epoch {memory['epoch']}, batch {memory['batch']}, all counted from 1)"
        finite = np.asarray(_finite(jax.tree.leaves(loop.model.params)))
        if what.startswith("the parameter"):
            message = f"after {place}, where training ends, {what} is not finite, though the gradients were: an update "
            fix = "has overflowed. Lower the learning rate."
        elif finite.all():
            message = f"at {place} {what} is not finite. The update was not made; `error.loop` is the loop without it. "
            fix = "Lower the learning rate, clip the gradient, look at the batch, or skip such updates by skip=True."
        else:
            broken = names[len(names) - len(finite) + int(np.argmin(finite))]
            message = (
                f"at {place} {what} is not finite, and {broken} was not before: an earlier update has overflowed. "
            )
            fix = "Lower the learning rate."
        raise NonFiniteError(f"stop_on_non_finite: {message}{fix}")


def _names(params: Any) -> list[str]:
    """The names of the checked arrays, in order: the loss, the leaves of the gradient, the leaves of the parameters."""
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    return ["the loss", *(f"the gradient {path}" for path in paths), *(f"the parameter {path}" for path in paths)]
