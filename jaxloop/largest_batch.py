"""The largest batch with which a training step fits the memory, found by asking the compiler. Nothing runs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax

from jaxloop.engine.abstract import AbstractFit
from jaxloop.memory_limits import Limit, limits_of
from jaxloop.placement import On, Placement, resolve
from jaxloop.plainly import plainly
from jaxloop.programs.cost import estimate
from jaxloop.training_loop import TrainingLoop
from jaxloop.whole_number import whole_number

#: Dispatches of batches that wait for the device while it works on another: on an accelerator two are read ahead, and a
#: third is on its way. For a CPU one is gathered.
_WAITING = {"cpu": 1}
_WAITING_ELSEWHERE = 3
#: XLA's CPU backend has buffers of its own for matrix products and convolutions, which it does not tell of. In a net
#: of dense layers they came to 7% to 15% of what it tells.
_UNTOLD = {"cpu": 0.15}
_FURTHEST = 16  # times the largest size that fits is how far a line is trusted


@plainly
def largest_batch(
    training_loop: TrainingLoop, model: Any, *, on: On = None, limit: int | None = None, most: int = 2**20
) -> int:
    """The largest batch size with which a training step fits the memory of each device.

    Steps over batches of several sizes are compiled, as a fit would compile them, and the compiler says what they take:
    parameters, optimizer, what callbacks remember, activations, the batches that wait. No step runs and nothing is put
    on a device, so none can run out of memory, and the machine need not be there. What another program uses is not
    known, and neither are a framework's own buffers: leave a few percent.

    Args:
      training_loop: with the data, optimizer, loss and compiled callbacks to use. Its own batch size does not matter.
        Of texts of several lengths the longest must fit.
      model: a model or a loop, as in `TrainingLoop.fit`.
      on: as in `TrainingLoop.fit`.
      limit: bytes of each device that may be taken. By default, all that a GPU or TPU has; of a CPU, what the machine
        and the limits of this process leave now.
      most: no larger size is asked for.

    Returns:
      A multiple of the number of parts that the placement divides a batch into, at most `most`.

    Raises:
      TypeError: `training_loop` is no TrainingLoop, or the arrays of a batch do not all count examples.
      ValueError: not even the smallest batch fits; the message has the sum. Or an argument is wrong, or how much memory
        the device has is not known.
      Whatever tracing the step raises, with a note of the batch size that was tried.

    Example:
      >>> batch_size = jl.largest_batch(training_loop, model)
      >>> batch_size = jl.largest_batch(training_loop, model, limit=12 * 2**30)
    """
    _check_arguments(training_loop, limit, most)
    place = resolve(on)
    fit = AbstractFit(training_loop.setup, model, place)
    if not fit.can_be_resized:
        raise TypeError(
            "largest_batch: the arrays of a batch must all count examples along their first axis, so that another size "
            "can be asked for. These do not: there is none, or they differ in length, as nodes and edges of graphs do."
        )
    parts = getattr(place, "parts", 1)
    if most < parts:
        raise ValueError(f"largest_batch: a batch is divided among {parts} devices, but `most` is {most}. Give more.")
    limits = _limits_of(place) if limit is None else [Limit(limit)]
    return _Search(fit, place.platform, parts, limits).largest(most // parts) * parts


@dataclass(frozen=True)
class _Trial:
    """What a step over a batch of one size takes of each device.

    Attributes:
      taken: bytes by what they hold; empty if the compiler gave up, since it found no way to make it fit.
      why: what it said then.
    """

    taken: dict[str, int]
    why: str = ""

    @property
    def bytes(self) -> float:
        """All together."""
        return sum(self.taken.values()) if self.taken else math.inf

    def of(self, limit: Limit) -> float:
        """The share of a limit."""
        # The next step is sent while one runs, and XLA's CPU backend reserves its temporaries when it is sent.
        again = self.taken.get("temporaries", 0) if limit.reserved else 0
        return (self.bytes + again) / max(1, limit.bytes)


@dataclass
class _Search:
    """A search for the largest batch, in sizes of so many examples on each device.

    Attributes:
      fit: what is compiled.
      platform: of the devices.
      parts: that a batch is divided into.
      limits: on each device.
      trials: what was found out, by size.
    """

    fit: AbstractFit
    platform: str
    parts: int
    limits: Sequence[Limit]
    trials: dict[int, _Trial] = field(default_factory=dict)

    def largest(self, most: int) -> int:
        """The largest size that fits, at most `most`.

        Raises:
          ValueError: not even 1 does.
        """
        if not self._fits(1):
            raise self._too_small()
        low, high = 1, most + 1  # the one fits; the other does not, or is not wanted
        size = max(2, self.fit.batch_size // self.parts)
        while high - low > 1:
            size = min(max(size, low + 1), high - 1)
            low, high = (size, high) if self._fits(size) else (low, size)
            size = self._next(low, high)
        return low

    def _fits(self, size: int) -> bool:
        if size not in self.trials:
            self.trials[size] = self._tried(size * self.parts)
        return self._load(size) <= 1

    def _load(self, size: int) -> float:
        """The share of the memory that a size takes."""
        return max(self.trials[size].of(limit) for limit in self.limits)

    def _next(self, low: int, high: int) -> int:
        """The size to try next: where the straight line through two sizes meets the limit.

        Memory grows mostly as the batch does. Every third time it is the middle, or the double where no bound is known,
        lest a line that bends creep up from one side.
        """
        middle = (low + high) // 2 if high in self.trials else 2 * low
        known = sorted(size for size in self.trials if self._load(size) < math.inf)
        other = high if high in known else next((size for size in reversed(known) if size < low), low)
        rise = self._load(other) - self._load(low)
        if len(self.trials) % 3 == 0 or other == low or rise / (other - low) <= 0:
            return middle
        guess = low + int((1 - self._load(low)) * (other - low) / rise)
        return min(guess, _FURTHEST * low)

    def _tried(self, batch_size: int) -> _Trial:
        try:
            steps = self.fit.steps(batch_size)
            memory = estimate(steps.compile().compiled).memory
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            return _Trial({}, str(error).splitlines()[0])
        except Exception as error:
            error.add_note(f"jaxloop: while largest_batch tried a batch of {batch_size}")
            raise
        if not memory:
            raise ValueError(f"largest_batch: the compiler for {self.platform} does not tell what a program takes.")
        new = memory.pop("outputs", 0) - memory.pop("aliased", 0)
        chunk = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(steps.chunk.abstract)) // self.parts
        waiting = chunk * _WAITING.get(self.platform, _WAITING_ELSEWHERE)
        taken = memory | {"new outputs": new, "batches that wait": waiting}
        untold = int(sum(taken.values()) * _UNTOLD.get(self.platform, 0))
        return _Trial(taken | {"what XLA does not tell": untold})

    def _too_small(self) -> ValueError:
        trial, limit = self.trials[1], min(self.limits)
        rows = ", ".join(f"{name} {size / 1e6:.4g} MB" for name, size in trial.taken.items() if size)
        what = trial.why or f"{rows}; {trial.bytes / 1e6:.4g} MB in all"
        return ValueError(
            f"largest_batch: not even a batch of {self.parts} fits the {limit.bytes / 1e6:.4g} MB of a device: {what}. "
            "Take a smaller model or an optimizer that remembers less, divide the parameters among devices, or compute "
            "activations again by jax.checkpoint."
        )


def _limits_of(place: Placement) -> list[Limit]:
    """The limits on each device.

    Raises:
      ValueError: they are not known.
    """
    devices = place.sharding.device_set
    device = next(iter(devices))
    limits = limits_of(device)
    if not limits:
        raise ValueError(
            f"largest_batch: how much memory {device.device_kind} has is not known. Give it in bytes, as "
            "limit=8 * 2**30."
        )
    if device.platform == "cpu":  # devices of a CPU share its memory
        limits = [limit._replace(bytes=limit.bytes // len(devices)) for limit in limits]
    return limits


def _check_arguments(training_loop: Any, limit: Any, most: Any) -> None:
    if not isinstance(training_loop, TrainingLoop):
        raise TypeError(
            f"largest_batch: `training_loop` must be a TrainingLoop, got {type(training_loop).__name__}. Write "
            "largest_batch(training_loop, model)."
        )
    whole_number("largest_batch: `most`", most)
    if limit is not None:
        whole_number("largest_batch: `limit`", limit)
