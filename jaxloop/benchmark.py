"""`benchmark`: how fast a jitted step, any function or the `fit` of a training loop runs."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from jaxloop.benchmarking.costs import costs_of
from jaxloop.benchmarking.measurement import Measurement, Quartiles
from jaxloop.benchmarking.timing import devices_of, time_function
from jaxloop.callback import on_host
from jaxloop.data import repeat
from jaxloop.events import Event
from jaxloop.feeding.specification import parts_of, specification
from jaxloop.loop import Loop
from jaxloop.placement import On
from jaxloop.training_loop import TrainingLoop
from jaxloop.views import LoopView

_ROUND_SECONDS = 0.2
_FEWEST_STEPS, _TRIED_STEPS = 16, 32


def benchmark(
    subject: Callable[..., Any] | TrainingLoop,
    *arguments: Any,
    calls: int | None = None,
    rounds: int = 11,
    warmup: int = 2,
    carry: bool | None = None,
    examples: int | None = None,
    on: On = None,
) -> Measurement:
    """Times a function or a training loop, and waits for the device after each round. Its arrays stay as they were.

    A **function** is called as `subject(*arguments)`, several times in a round. If it is jitted, its FLOPs and bytes
    are counted. One that donates its first argument is given its own result, see `carry`. NumPy arguments travel to the
    device in each call, as they do in a loop.

    A **training loop** is benchmarked as `benchmark(training_loop, model)`, perhaps with `batches` as a third argument.
    A round is the training phase of an epoch inside `fit`, from TRAINING_START to TRAINING_END, with feeding, metrics
    and compiled callbacks. Validation is left out. So are host callbacks, which would write over a real run's logs.

    Args:
      subject: a function, jitted or not, or a TrainingLoop.
      *arguments: of the function; or a model or a loop, and perhaps a sized iterable of batches to train on in every
        round, in place of the first epoch of the training loop.
      calls: in a round, at least 1; of a training loop steps, at most an epoch's. None: as many as take 0.2 s, but at
        least 16 for a training loop, and at most 32 for a function that is not given its own result.
      rounds: that are timed, at least 1.
      warmup: rounds before those, at least 1.
      carry: whether the result, or the first of a tuple of results, is the first argument of the next call. None: only
        for a jitted function that donates.
      examples: in one call. A training loop knows its own.
      on: the device of a training loop, as in `fit`. A function runs where its arguments lie.

    Raises:
      TypeError: `subject` cannot be called, or an argument is only for the other kind of subject.
      ValueError: a number is too small; there is no such device; a function deletes arguments that are not carried, or
        its result cannot be carried; a fit was cancelled.

    Example:
      >>> step = jax.jit(lambda params, batch: params - 0.1 * batch.mean(), donate_argnums=0)
      >>> measured = benchmark(step, jnp.ones(3), jnp.ones(8), examples=8)
      >>> measured.examples_per_second > 0
      True
    """
    _check_numbers(calls=calls, rounds=rounds, warmup=warmup, examples=examples)
    times: dict[str, Any] = {"calls": calls, "rounds": rounds, "warmup": warmup}
    if isinstance(subject, TrainingLoop):
        _check_for_training_loop(arguments, carry, examples)
        return _of_training_loop(subject, *arguments, **times, on=on)
    if not callable(subject):
        raise TypeError(f"benchmark: expected a function or a TrainingLoop, got {type(subject).__name__}.")
    if on is not None:
        raise TypeError(
            "benchmark: `on` is for training loops; a function runs where its arguments lie. Put them there by "
            "jax.device_put."
        )
    return time_function(subject, arguments, **times, carry=carry, examples=examples)


def _check_numbers(**numbers: Any) -> None:
    for name, value in numbers.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1):
            raise ValueError(f"benchmark: `{name}` must be a whole number of at least 1, got {value!r}.")


def _check_for_training_loop(arguments: tuple[Any, ...], carry: bool | None, examples: int | None) -> None:
    if carry is not None or examples is not None:
        raise TypeError(
            "benchmark: `carry` and `examples` are for functions; a training loop knows them. Leave them out."
        )
    if len(arguments) not in (1, 2):
        raise TypeError(
            "benchmark: of a training loop it takes a model or a loop, and perhaps batches, got "
            f"{len(arguments)} arguments."
        )


def _of_training_loop(
    training_loop: TrainingLoop,
    model: Any,
    batches: Any = None,
    *,
    calls: int | None,
    rounds: int,
    warmup: int,
    on: On,
) -> Measurement:
    epoch = _first_epoch(training_loop.training) if batches is None else batches
    alone = TrainingLoop.of(training_loop.setup.on_trial(repeat(epoch)))
    count = len(epoch)
    if calls is None:
        _, tried = _fitted(alone, model, 2, min(count, _TRIED_STEPS), on=on)
        calls = max(_FEWEST_STEPS, int(_ROUND_SECONDS / max(1e-9, tried[-1])))
    calls = min(calls, count)
    loop, seconds = _fitted(alone, model, warmup + rounds, calls, on=on)
    batch = next(iter(epoch))
    loop = alone.begin_epoch(alone.start(loop, epochs=1, on=on))
    flops, traffic = costs_of(jax.jit(alone.train_step).trace(loop, batch))
    device_kind, device_count = devices_of(loop.model.params)
    return Measurement(
        name="fit",
        rounds=rounds,
        calls=calls,
        seconds=Quartiles.of(seconds[warmup:]),
        examples=specification(parts_of(batch, training_loop.setup.batch_keys, "batches")).batch_size,
        flops=flops,
        bytes=traffic,
        device_kind=device_kind,
        device_count=device_count,
    )


def _first_epoch(training: Any) -> Any:
    if hasattr(training, "__getitem__"):
        return training[0]
    if iter(training) is training:
        raise ValueError(
            "benchmark: the training loop's epochs can be had only once, and a benchmark must not use them up. Give it "
            "batches, as benchmark(training_loop, model, batches)."
        )
    return next(iter(training))


def _fitted(training_loop: TrainingLoop, model: Any, epochs: int, steps: int, *, on: On) -> tuple[Loop, list[float]]:
    """The loop after a fit, and seconds per step in each of its epochs.

    Raises:
      ValueError: the fit was cancelled.
    """
    clock = _Clock()
    loop, _ = training_loop.fit(model, epochs, callbacks=[clock], on=on, limit_batches=steps)
    if clock.steps != [steps] * epochs:
        raise ValueError(
            "benchmark: a callback has cancelled a part of the fit, so that its epochs are not alike. Leave it out."
        )
    return loop, [seconds / steps for seconds in clock.seconds]


@on_host(Event.TRAINING_START, Event.TRAINING_END)
@dataclass
class _Clock:
    """Notes how long each training phase took, and how many steps it had."""

    seconds: list[float] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    began: float = 0.0

    def __call__(self, loop: LoopView, event: Event) -> None:
        if event is Event.TRAINING_START:
            self.began = time.perf_counter()
        else:
            self.seconds.append(time.perf_counter() - self.began)
            self.steps.append(int(loop.batch_index))
