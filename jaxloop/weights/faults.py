"""All that does not fit between a file and a model, told at once."""

from collections.abc import Iterable
from dataclasses import dataclass, field

_SHOWN = 4


@dataclass
class Faults:
    """What does not fit, by its sort.

    Attributes:
      missing, left_over, shapes, dtypes, others: lines, each of which begins with a name.
    """

    missing: list[str] = field(default_factory=list[str])
    left_over: list[str] = field(default_factory=list[str])
    shapes: list[str] = field(default_factory=list[str])
    dtypes: list[str] = field(default_factory=list[str])
    others: list[str] = field(default_factory=list[str])

    def __bool__(self) -> bool:
        return any(lines for _, lines in self._sorts())

    def summary(self) -> str:
        """One line with the first few of each sort."""
        return "; ".join(f"{what} {_cut(sorted(lines))}".strip() for what, lines in self._sorts() if lines)

    def listing(self) -> str:
        """Every fault, one a line, unless the summary has them all."""
        if all(len(lines) <= _SHOWN for _, lines in self._sorts()):
            return ""
        told = [""]
        for what, lines in self._sorts():
            if lines:
                told += [f"{what.strip(' :') or 'further'} ({len(lines)}):", *(f"  {line}" for line in sorted(lines))]
        return "\n".join(told)

    def _sorts(self) -> Iterable[tuple[str, list[str]]]:
        yield "it lacks", self.missing
        yield "the model has no", self.left_over
        yield "shapes differ:", self.shapes
        yield "dtypes differ:", self.dtypes
        yield "", self.others


def _cut(lines: list[str]) -> str:
    more = f" and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
    return ", ".join(lines[:_SHOWN]) + more
