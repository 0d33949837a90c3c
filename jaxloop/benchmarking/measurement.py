"""The result of a benchmark: times, rates, and how much of the chip was used."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jaxloop.benchmarking.costs import peak_flops


@dataclass(frozen=True)
class Quartiles:
    """The middle of a sample and its spread."""

    low: float
    median: float
    high: float

    @staticmethod
    def of(sample: Sequence[float]) -> "Quartiles":
        """The three quartiles of `sample`, linearly interpolated."""
        low, median, high = np.quantile(np.asarray(sample, np.float64), [0.25, 0.5, 0.75])
        return Quartiles(float(low), float(median), float(high))


@dataclass(frozen=True, repr=False)
class Measurement:
    """The result of a benchmark, over all devices. A call is a call of the function, or a step of the training loop.

    Attributes:
      name: the name of the function or of the step.
      rounds: the number of rounds that were timed.
      calls: the number of calls in one round.
      seconds: the time of a call, over the rounds. In a round the calls follow one another, and after the last one the
        benchmark waits for the device.
      dispatch_seconds: the overhead of dispatching: the time until a call comes back to Python while the device is
        idle. If it is not less than `seconds`, the host is the limit. XLA's CPU backend runs small programs inside of
        the call: then the work of the program is included. None for a training loop.
      latency_seconds: the time of the same calls until the result was there. None for a training loop.
      examples: the number of examples in one call, or None.
      flops: the FLOPs of one call, with a scan's body counted as often as it runs; None if they are not known.
      bytes: the bytes that one call reads and writes, as XLA counts them in the optimized program; None if the program
        has loops, since XLA counts only one turn of a loop.
      device_kind, device_count: the devices that hold the result; None and 0 if no device does.

    Example:
      >>> measured = jl.benchmark(jax.jit(jnp.sin), jnp.ones(1000), rounds=3)
      >>> measured.rounds, measured.seconds.median > 0
      (3, True)
    """

    name: str
    rounds: int
    calls: int
    seconds: Quartiles
    dispatch_seconds: Quartiles | None = None
    latency_seconds: Quartiles | None = None
    examples: int | None = None
    flops: float | None = None
    bytes: float | None = None
    device_kind: str | None = None
    device_count: int = 0

    @property
    def calls_per_second(self) -> float:
        """Calls per second in the median round; for a training loop, steps per second."""
        return 1 / self.seconds.median

    @property
    def examples_per_second(self) -> float | None:
        """Examples per second in the median round."""
        return self._per_second(self.examples)

    @property
    def flops_per_second(self) -> float | None:
        """The achieved FLOP/s, on all devices together."""
        return self._per_second(self.flops)

    @property
    def bytes_per_second(self) -> float | None:
        """The bytes that were read and written in a second, on all devices together."""
        return self._per_second(self.bytes)

    @property
    def intensity(self) -> float | None:
        """The arithmetic intensity: FLOPs per byte."""
        return self.flops / self.bytes if self.flops is not None and self.bytes else None

    @property
    def peak_flops(self) -> float | None:
        """The largest FLOP/s in bfloat16 of all devices together; None if it is not known, as for a CPU."""
        peak = peak_flops(self.device_kind) if self.device_kind else None
        return None if peak is None else peak * self.device_count

    @property
    def utilization(self) -> float | None:
        """MFU: the achieved FLOP/s as a share of `peak_flops`. What `jax.remat` computes again counts too."""
        achieved, peak = self.flops_per_second, self.peak_flops
        return achieved / peak if achieved is not None and peak else None

    def __repr__(self) -> str:
        """A table of what is known."""
        where = f" on {self.device_count} x {self.device_kind}" if self.device_kind else ""
        rows = [f"{name:<20} {value:<28} {note}".rstrip() for name, value, note in self._rows()]
        return "\n  ".join([f"Benchmark of {self.name}{where}", *rows])

    def _rows(self) -> list[tuple[str, str, str]]:
        rounds = f"{self.rounds} rounds of {self.calls} calls"
        rows = [("seconds per call", _spread(self.seconds), f"median and quartiles of {rounds}")]
        rows += [("calls per second", _amount(self.calls_per_second), "")]
        if self.examples is not None:
            rows += [("examples per second", _amount(self.examples_per_second), f"{self.examples} in a call")]
        if self.dispatch_seconds is not None and self.latency_seconds is not None:
            until = f"until a call comes back; its result is there after {_amount(self.latency_seconds.median)}s"
            rows += [("dispatch", _spread(self.dispatch_seconds), until)]
        if self.flops is not None:
            rows += [("FLOP/s", _amount(self.flops_per_second), f"{_amount(self.flops)} FLOPs in a call")]
        if self.bytes is not None:
            intensity = "" if self.intensity is None else f", {self.intensity:.3g} FLOPs for each"
            rows += [
                ("bytes per second", _amount(self.bytes_per_second), f"{_amount(self.bytes)}B in a call{intensity}")
            ]
        if self.utilization is not None:
            rows += [("MFU", f"{self.utilization:.1%}", f"of {_amount(self.peak_flops)} FLOP/s in bfloat16")]
        elif self.flops is not None and self.device_kind is not None:
            rows += [("MFU", "not known", f"the peak of {self.device_kind} is not known")]
        return rows

    def _per_second(self, amount: float | None) -> float | None:
        return None if amount is None else amount / self.seconds.median


def _spread(seconds: Quartiles) -> str:
    return f"{_amount(seconds.median)}s [{_amount(seconds.low)}s, {_amount(seconds.high)}s]"


def _amount(number: float | None) -> str:
    """A number with three digits and the prefix of a unit: 0.0000416 is "41.6 u"."""
    if not number:
        return "0 "
    power = min(5, max(-3, int(np.floor(np.log10(abs(number)) / 3 + 1e-9))))
    return f"{number / 1000.0**power:.3g} {_PREFIXES[power]}"


_PREFIXES = {-3: "n", -2: "u", -1: "m", 0: "", 1: "k", 2: "M", 3: "G", 4: "T", 5: "P"}
