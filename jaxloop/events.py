"""The vocabulary of a run: events, phases, scopes that can be cancelled, and the plan of a fit."""

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal


class _Named(enum.Enum):
    """Members that are no strings. A comparison with one would be False for good, in silence, so it is refused."""

    __hash__ = object.__hash__  # each member is one object

    def __eq__(self, other: object) -> bool:
        if isinstance(other, str):
            raise TypeError(_not_a_string(self, other))
        return self is other


def _not_a_string(member: Any, text: str) -> str:
    kind = type(member)
    meant = kind.__members__.get(text.upper(), member)
    return (
        f"{kind.__name__}: {text!r} is a string, and {kind.__name__.lower()}s are compared by identity. "
        f"Write `is jaxloop.{kind.__name__}.{meant.name}`."
    )


class Event(_Named):
    """The twelve places in a fit at which callbacks are called.

    ```
    fit:    FIT_START ( EPOCH_START
                          TRAINING_START   [ train step ]*  TRAINING_END
                          VALIDATION_START [ eval step  ]*  VALIDATION_END
                        EPOCH_END )*  FIT_END
    train step:  BATCH_START -> differentiate -> UPDATE_START -> update -> measure -> BATCH_END
    eval step:   BATCH_START -> predict -> INFERENCE_PREDICTION_END -> loss -> measure -> BATCH_END
    ```

    | event | what the loop holds then |
    | --- | --- |
    | `FIT_START` | a new position: `epoch_index` 0, and `epoch_count` |
    | `EPOCH_START` | `epoch_index`; the metrics are unmeasured again. At index -1 an epoch only validates |
    | `TRAINING_START`, `VALIDATION_START` | `phase`, `batch_count`, empty accumulators |
    | `BATCH_START` | `input`, `target`, `weight`, `batch_index` |
    | `UPDATE_START` (training) | also `output`, `loss`, `gradient`; the optimizer comes next |
    | `INFERENCE_PREDICTION_END` (validation) | also `output` |
    | `BATCH_END` | all of the step, the new parameters, and `stats` that include this batch |
    | `TRAINING_END`, `VALIDATION_END` | the statistics of the whole phase; in validation as `validation_loss`, ... |
    | `EPOCH_END` | all statistics of the epoch |
    | `FIT_END` | the result |

    Example:
      >>> def double_gradient(loop, event):
      ...     if event is jl.Event.UPDATE_START:
      ...         return loop.replace(gradient=jax.tree.map(lambda leaf: 2 * leaf, loop.gradient))
      ...     return loop
    """

    FIT_START = "fit_start"
    FIT_END = "fit_end"
    EPOCH_START = "epoch_start"
    EPOCH_END = "epoch_end"
    TRAINING_START = "training_start"
    TRAINING_END = "training_end"
    VALIDATION_START = "validation_start"
    VALIDATION_END = "validation_end"
    BATCH_START = "batch_start"
    BATCH_END = "batch_end"
    UPDATE_START = "update_start"
    INFERENCE_PREDICTION_END = "inference_prediction_end"

    @property
    def in_step(self) -> bool:
        """Whether the event happens inside a step, and so inside the step's program."""
        return self in _STEP_EVENTS

    def __repr__(self) -> str:
        return f"Event.{self.name}"


_STEP_EVENTS = frozenset({Event.BATCH_START, Event.UPDATE_START, Event.INFERENCE_PREDICTION_END, Event.BATCH_END})


class Scope(enum.IntFlag):
    """What a callback can cancel; `loop.stop` holds one bit for each.

    Example:
      >>> def stop_at_ten(loop, event):
      ...     return loop.cancel(jl.Scope.FIT, when=loop.step >= 10) if event is jl.Event.BATCH_END else loop
    """

    BATCH = 1
    TRAINING = 2
    VALIDATION = 4
    EPOCH = 8
    FIT = 16

    __hash__ = enum.IntFlag.__hash__

    def __eq__(self, other: object) -> bool:
        if isinstance(other, str):
            raise TypeError(_not_a_string(self, other))
        return int.__eq__(self, other)  # pyright: ignore[reportArgumentType] it gives NotImplemented for what it is not


def check_cancel(where: str, scope: Any, when: Any) -> None:
    """Refuses a cancel of what is no scope, and on a condition that is not one value.

    Raises:
      TypeError: one of them is wrong.
    """
    if not isinstance(scope, Scope):
        raise TypeError(f"{where}: `scope` must be a jaxloop.Scope, got {scope!r}. {_scope_meant(scope)}")
    shape = getattr(when, "shape", ())
    if shape != () or isinstance(when, str):
        got = f"an array of shape {shape}" if shape != () else repr(when)
        raise TypeError(f"{where}: `when` must be one bool, got {got}. Of an array write when=jnp.any(...).")


def _scope_meant(given: Any) -> str:
    """The fix for what is no scope: the line to write in its place."""
    name = (given.name if isinstance(given, Event) else str(given)).upper().removesuffix("_END").removesuffix("_START")
    return f"Write jaxloop.Scope.{name if name in Scope.__members__ else 'FIT'}."


class Phase(_Named):
    """The two phases of an epoch. `loop.phase` is `None` outside of both.

    Example:
      >>> def noise(loop, event):
      ...     if event is jl.Event.BATCH_START and loop.phase is jl.Phase.TRAINING:
      ...         return loop.replace(input=loop.input + jax.random.normal(loop.step_key("noise"), loop.input.shape))
      ...     return loop
    """

    TRAINING = "training"
    VALIDATION = "validation"

    @property
    def scope(self) -> Scope:
        """The scope that ends with this phase."""
        return Scope[self.name]

    @property
    def start(self) -> Event:
        """The event that opens this phase."""
        return Event[f"{self.name}_START"]

    @property
    def end(self) -> Event:
        """The event that closes this phase."""
        return Event[f"{self.name}_END"]

    @property
    def step_event(self) -> Event:
        """The event in the middle of this phase's step."""
        training = self is Phase.TRAINING
        return Event.UPDATE_START if training else Event.INFERENCE_PREDICTION_END

    def stat(self, metric: str) -> str:
        """The name in `loop.stats` of `metric` in this phase, if validation has only one set."""
        return Split(self, self.value).stat(metric)


@dataclass(frozen=True)
class Split:
    """A phase over one set of data: training, or one of the sets that are validated on, each in a phase of its own.

    Attributes:
      phase: the phase.
      name: of the set: `"training"`; `"validation"` if there is only one set to validate on, else as the user calls it.
    """

    phase: Phase
    name: str

    def stat(self, metric: str) -> str:
        """The name in `loop.stats` of `metric` over this set."""
        return metric if self.phase is Phase.TRAINING else f"{self.name}_{metric}"

    @property
    def validation_set(self) -> str | None:
        """What `Loop.validation_set` is here: the name of the set if validation has several."""
        return None if self in (TRAINING, VALIDATION) else self.name

    @classmethod
    def named(cls, name: str) -> "Split":
        """The split of this name."""
        return TRAINING if name == TRAINING.name else cls(Phase.VALIDATION, name)

    def __repr__(self) -> str:
        return f"Split({self.name})"


TRAINING = Split(Phase.TRAINING, Phase.TRAINING.value)
VALIDATION = Split(Phase.VALIDATION, Phase.VALIDATION.value)


def split_at(phase: Phase | None, validation_set: str | None) -> Split | None:
    """The split of a loop with these two; None between phases."""
    if phase is None:
        return None
    return TRAINING if phase is Phase.TRAINING else Split(phase, validation_set or VALIDATION.name)


def splits_of(validation_sets: Iterable[str]) -> tuple[Split, ...]:
    """Training, then each set of validation."""
    return TRAINING, *(Split(Phase.VALIDATION, name) for name in validation_sets)


def should_run(stop: Any, phase: Phase | None) -> Any:
    """Whether work in `phase` goes on, given the cancelled scopes.

    In training `BATCH`, `TRAINING`, `EPOCH` and `FIT` end it. A `VALIDATION` that is cancelled there is kept for the
    validation that follows. Outside of both phases (`None`) only `EPOCH` and `FIT` count.

    Args:
      stop: int32[], `Loop.stop`: an array, a tracer or a number.
      phase: the current phase.

    Returns:
      bool[] of the same kind as `stop`.
    """
    return (stop & _SKIPPED_BY[phase]) == 0


_SKIPPED_BY = {
    None: int(Scope.EPOCH | Scope.FIT),
    Phase.TRAINING: int(Scope.BATCH | Scope.TRAINING | Scope.EPOCH | Scope.FIT),
    Phase.VALIDATION: int(Scope.BATCH | Scope.VALIDATION | Scope.EPOCH | Scope.FIT),
}


def leave(stop: Any, scope: Scope) -> Any:
    """`stop` after `scope` was left: its bit and the bits of the scopes inside of it are cleared."""
    inside = {Scope.EPOCH: Scope.BATCH | Scope.TRAINING | Scope.VALIDATION, Scope.FIT: ~Scope.FIT}
    return stop & int(~(scope | inside.get(scope, Scope.BATCH)))


@dataclass(frozen=True)
class Plan:
    """What is fixed for one fit, as Python values. A callback with a method `bind(plan)` gets it.

    Attributes:
      epoch_count: the number of epochs in this fit.
      batch_count: the number of training batches in the first epoch of this fit.
      metrics: the names of the metrics, in the order given, `"loss"` first.
      report: `"batch"` if statistics are reported at each batch, `"epoch"` if only at the last batch of a phase.
      total_steps: the number of training steps in this fit if nothing is cancelled: the batches of all its epochs
        together. If it is left out, all epochs are as long as the first.
      assumed: whether `total_steps` is an assumption, because the epochs come one by one and do not tell their lengths
        ahead.
      validation_sets: the names of what is validated on, in order; `("validation",)` if they have none.

    Example:
      >>> plan = jl.Plan(epoch_count=12, batch_count=100)
      >>> plan.total_steps
      1200
    """

    epoch_count: int
    batch_count: int
    metrics: tuple[str, ...] = ("loss",)
    report: Literal["batch", "epoch"] = "batch"
    total_steps: int = 0
    assumed: bool = False
    validation_sets: tuple[str, ...] = ("validation",)

    def __post_init__(self) -> None:
        if not self.total_steps:
            object.__setattr__(self, "total_steps", self.epoch_count * self.batch_count)

    @property
    def splits(self) -> tuple[Split, ...]:
        """Training, then each set that is validated on."""
        return splits_of(self.validation_sets)

    @property
    def statistics(self) -> tuple[str, ...]:
        """The name of each metric over each split in `loop.stats`: first all of training."""
        return tuple(split.stat(name) for split in self.splits for name in self.metrics)
