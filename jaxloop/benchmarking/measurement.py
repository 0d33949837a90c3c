"""What a benchmark has measured: times, rates, and how much of the chip was used."""

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
    """What was measured, over all devices. A call is one of the function, or a step of the training loop.

    Attributes:
      name: of what was measured.
      rounds: how many were timed.
      calls: in one round.
      seconds: per call, over the rounds: calls one after the other, and a wait for the device after the last.
      dispatch_seconds: the overhead of dispatching: until a call comes back to Python, the device having nothing else
        to do. The host is what limits as soon as this is not less than `seconds`. XLA's CPU backend runs small
        programs inside of the call; then the work is in it. None of a training loop.
      latency_seconds: of the same calls, until their result was there. None of a training loop.
      examples: in one call, or None.
      flops: of one call, a scan's body counted as often as it runs; None where nobody knows.
      bytes: that one call reads and writes, as XLA counts them of the optimized program; None where that has loops,
        of which it counts one turn.
      device_kind, device_count: of the devices that hold the result; None and 0 where it is on none.
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
        """Of the median round; of a training loop, steps per second."""
        return 1 / self.seconds.median

    @property
    def examples_per_second(self) -> float | None:
        """Of the median round."""
        return self._per_second(self.examples)

    @property
    def flops_per_second(self) -> float | None:
        """What was achieved, on all devices together."""
        return self._per_second(self.flops)

    @property
    def bytes_per_second(self) -> float | None:
        """Read and written, on all devices together."""
        return self._per_second(self.bytes)

    @property
    def intensity(self) -> float | None:
        """Arithmetic intensity: FLOPs for each byte."""
        return self.flops / self.bytes if self.flops is not None and self.bytes else None

    @property
    def peak_flops(self) -> float | None:
        """The most FLOP/s in bfloat16 of all devices together; None where it is not known, as of a CPU."""
        peak = peak_flops(self.device_kind) if self.device_kind else None
        return None if peak is None else peak * self.device_count

    @property
    def utilization(self) -> float | None:
        """MFU: achieved FLOP/s as a share of `peak_flops`. What `remat` computes again counts as work here."""
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
    """Three digits and the prefix of a unit: 0.0000416 is "41.6 u"."""
    if not number:
        return "0 "
    power = min(5, max(-3, int(np.floor(np.log10(abs(number)) / 3 + 1e-9))))
    return f"{number / 1000.0**power:.3g} {_PREFIXES[power]}"


_PREFIXES = {-3: "n", -2: "u", -1: "m", 0: "", 1: "k", 2: "M", 3: "G", 4: "T", 5: "P"}
