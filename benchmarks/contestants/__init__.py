"""The contestants: loops by hand, `fit`, other libraries. A new one is a function and an entry in CONTESTANTS.

`prepare(workload, epochs)` gives a turn. Each call of the turn trains the workload once from its first weights.
Compiled programs are kept from turn to turn, so that compiling happens in the warm-up. The function is given by its
name, not imported: each contestant runs in its own process, and only that process imports what it needs.
"""

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.workloads import WORKLOADS, Workload

REFERENCE = "by_hand"
_CONVOLUTIONAL = ("W2", "W3", "LeNet", "ResNet-20")
_FRAMEWORKS = ("W1", "W2", "W3")


@dataclass(frozen=True)
class Outcome:
    """The outcome of a training. All contestants must agree on it.

    Attributes:
      params: the arrays in the order of the workload's; None for libraries that store them in another form.
      loss: float[epochs], the mean over each epoch.
      accuracy: float[epochs], the mean over each epoch.
    """

    params: Any
    loss: np.ndarray
    accuracy: np.ndarray


Turn = Callable[[], Outcome]


@dataclass(frozen=True)
class Contestant:
    """One way to train a workload.

    Attributes:
      name: the name in tables and filters.
      place: the function that gives the turn for a workload and a number of epochs, as "module:function".
      options: further keyword arguments of that function.
      workloads: the names of the workloads in which it takes part.
      rival: a second contestant that it is compared with, besides the reference.
      needs: packages that jaxloop does not need. If one is missing, the contestant is left out.
      tolerance: how far its outcome may be from the reference's. Programs that are fused differently round differently,
        and the differences add up in training. Other libraries also have other kernels.
    """

    name: str
    place: str
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    workloads: tuple[str, ...] = tuple(WORKLOADS)
    rival: str | None = None
    needs: tuple[str, ...] = ()
    tolerance: float = 1e-3

    def prepare(self, workload: Workload, epochs: int) -> Turn:
        """The turn of this contestant. It imports what the contestant needs."""
        module, _, function = self.place.partition(":")
        return getattr(importlib.import_module(f"benchmarks.contestants.{module}"), function)(
            workload, epochs, **self.options
        )

    @property
    def missing(self) -> tuple[str, ...]:
        """The packages that it needs and that are not installed."""
        return tuple(name for name in self.needs if importlib.util.find_spec(name) is None)


def _fit(name: str, steps_per_dispatch: int | str, **others: Any) -> Contestant:
    return Contestant(name, "by_fit:fit", {"steps_per_dispatch": steps_per_dispatch}, **others)


def _logged(name: str, steps_per_dispatch: int | str, **others: Any) -> Contestant:
    options = {"steps_per_dispatch": steps_per_dispatch}
    return Contestant(f"{name}_logged", "by_fit:logged_fit", options, rival=name, **others)


def _foreign(name: str, place: str, *needs: str, **others: Any) -> Contestant:
    others = {"workloads": _FRAMEWORKS} | others
    return Contestant(name, place, needs=needs, tolerance=2e-2, **others)


CONTESTANTS = (
    Contestant(REFERENCE, "by_hand:by_hand"),
    Contestant("scan_32", "by_hand:scan_by_hand", {"length": 32}, workloads=("W1", "Transformer")),
    Contestant("unrolled_8", "by_hand:scan_by_hand", {"length": 8, "unroll": True}, workloads=_CONVOLUTIONAL),
    _fit("fit_1", 1),
    _logged("fit_1", 1),
    _fit("fit_8", 8, workloads=_CONVOLUTIONAL, rival="unrolled_8"),
    _fit("fit_32", 32, workloads=("W1", "Transformer"), rival="scan_32"),
    _logged("fit_32", 32, workloads=("W1", "Transformer")),
    _fit("fit_auto", "auto"),
    _logged("fit_auto", "auto"),
    _foreign("nnx", "by_nnx:by_nnx"),
    _foreign("nnx_cached", "by_nnx:by_nnx", options={"cached": True}),
    _foreign("keras", "by_keras:by_keras", "keras"),
    _foreign(
        "keras_32", "by_keras:by_keras", "keras", options={"steps_per_execution": 32}, workloads=("W1",), rival="keras"
    ),
    _foreign("torch", "by_torch:by_torch", "torch"),
    _foreign("lightning", "by_torch:by_lightning", "torch", "lightning", rival="torch"),
)
