"""`Loop`: a training run as an immutable value."""

import dataclasses
import functools
import zlib
from dataclasses import dataclass
from typing import Any, NoReturn, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxloop.events import Phase, Plan, Scope, Split, check_cancel, split_at
from jaxloop.hyperparameters import exposed, is_rate, the_one, with_value
from jaxloop.kinds import kind_name, strong
from jaxloop.measured import as_statistic, is_measured
from jaxloop.metrics import check_name
from jaxloop.model import Model

COUNTERS = ("step", "epoch", "epoch_index", "epoch_count", "batch_index", "batch_count")
STEP_FIELDS = ("input", "target", "weight", "output", "loss", "gradient")
STATIC_FIELDS = ("phase", "validation_set", "plan", "lasting", "evaluated")


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=[
        *("model", "opt_state", "key"),
        *("first_step", *COUNTERS),  # leaves, since as static fields they would make every step compile again
        *("metrics", "stats", "callback_state", "stop"),
        *STEP_FIELDS,
    ],
    meta_fields=list(STATIC_FIELDS),
)
@dataclass(frozen=True, repr=False)
class Loop:
    """Everything that changes while training, as one immutable pytree.

    Attributes:
      model: parameters and state, see `Model`.
      opt_state: the optimizer's state, PyTree.
      key: key[], the typed PRNG key of the run.
      step: int32[], how many training batches the loop has taken in its life. During a step, that step is not counted.
      first_step: int32[], what `step` was when this fit began: `step - first_step` is the position in the fit.
      epoch: int32[], how many epochs the loop has begun in its life. The order of the data is a function of
        (seed, epoch).
      epoch_index, epoch_count: int32[], the position in this fit, counted from 0, and the number of its epochs.
      batch_index, batch_count: int32[], the position in this phase, counted from 0, and the number of its batches.
      metrics: the accumulator of each metric by name; empty at the start of a phase.
      stats: float32[] by name: each metric, as `loss` in training and as `validation_loss` in validation, or as
        `<name>_loss` if that has several named sets; `learning_rate`, or `learning_rate/<group>` for each of several
        groups of the optimizer; what callbacks record. An integer that a callback records is int32[] or uint32[]. A
        statistic is NaN until it is measured. `jaxloop.measured.is_measured` tells that NaN from a NaN that was
        measured.
      callback_state: what callbacks remember, by name.
      stop: int32[], one bit for each `Scope` that is cancelled and not yet left.
      input, target, weight, output, loss, gradient: the current step; `None` between steps. `loss` is what the loss
        function gave: one per example or token, or a scalar. In training an example with weight 0 has the loss of
        another example; see `jaxloop.masks`.
      phase: the current phase, or `None` between phases; static.
      validation_set: the name of the set that is validated on, if validation has several named ones; else `None`;
        static.
      plan: the plan of the fit, if a compiled callback is bound to it, else `None`; static.
      lasting: the names in `callback_state` that the next fit keeps; static.
      evaluated: the names in `callback_state` that an evaluation depends on, as it does on the model; static.

    Example:
      >>> loop, history = training_loop.fit(model, epochs=2)
      >>> int(loop.step), float(loop.stats["loss"]) < 2, loop.model(images).shape
      (16, True, (256, 4))
    """

    model: Model
    opt_state: Any
    key: Any
    step: Any
    first_step: Any
    epoch: Any
    epoch_index: Any
    epoch_count: Any
    batch_index: Any
    batch_count: Any
    metrics: dict[str, Any]
    stats: dict[str, Any]
    callback_state: dict[str, Any]
    stop: Any
    input: Any = None
    target: Any = None
    weight: Any = None
    output: Any = None
    loss: Any = None
    gradient: Any = None
    phase: Phase | None = None
    validation_set: str | None = None
    plan: Plan | None = None
    lasting: frozenset[str] = frozenset()
    evaluated: frozenset[str] = frozenset()

    @property
    def split(self) -> Split | None:
        """The phase and the set of data at hand; `None` between phases."""
        return split_at(self.phase, self.validation_set)

    def replace(self, **fields: Any) -> "Loop":
        """This loop with other values in `fields`."""
        unknown = sorted(set(fields) - FIELDS)
        if unknown:
            raise TypeError(f"Loop.replace: no field {unknown[0]!r}; a loop has {', '.join(sorted(FIELDS))}.")
        return dataclasses.replace(self, **fields)

    def cancel(self, scope: Scope, when: Any = True) -> "Loop":
        """This loop with `scope` cancelled if `when` is true.

        Cancelling is data, not an exception. The END events of everything that is open still come, from the inside
        out, and every callback sees them.

        | scope | before the update or the measuring | at `BATCH_END` | the fit goes on with |
        | --- | --- | --- | --- |
        | `BATCH` | no update, no metrics, no row; `step` counts it | nothing is left to cancel | the next batch |
        | `TRAINING` | the same, then `TRAINING_END` | the batch counts; `TRAINING_END` | validation |
        | `VALIDATION` | in validation the same; in training it is kept | likewise | `EPOCH_END` |
        | `EPOCH` | the same; no validation | the batch counts, then the same | the next epoch |
        | `FIT` | the same; all open END events | the batch counts, then the same | its return, as `"cancelled"` |

        "Before" means at `BATCH_START`, `UPDATE_START` and `INFERENCE_PREDICTION_END`. A `VALIDATION` that is cancelled
        in training ends the next validation right after `VALIDATION_START`. After a compiled callback has cancelled,
        the later steps of the same dispatch change nothing. After an observer has cancelled, the dispatch that was
        already sent counts.

        Args:
          scope: what ends.
          when: bool[], may be traced.
        """
        check_cancel("Loop.cancel", scope, when)
        # Where no callback cancels, `stop` stays the same object, and the traced program holds nothing of cancelling.
        if isinstance(when, (bool, np.bool_)):
            return self.replace(stop=self.stop | np.int32(scope)) if when else self
        return self.replace(stop=jnp.where(when, self.stop | np.int32(scope), self.stop))

    def record(self, name: str, value: Any) -> "Loop":
        """This loop with `stats[name]` set to a scalar of this step. Every log then has a column of that name.

        An epoch has that of its last step, in validation too unless `loop.phase` is tested. A mean over a phase is a
        metric: see `jaxloop.metrics.Mean`. Integers stay integers, exact in 32 bits: a uint32 stays uint32, all others
        are int32, a Python int too. Everything else, bools too, is kept as float32.

        Args:
          name: the column. One abstract trace before the first step finds all names and their dtypes. A Python int
            takes the dtype of the other values that are recorded under the name. What a host callback will record
            is not found so: let it record the name at FIT_START too, as `jaxloop.measured.UNMEASURED`.
          value: a real number, shape ().

        Raises:
          ValueError: it is not a scalar, not a real number, or an integer wider than 32 bits; or its dtype is not the
            one that the name has elsewhere; or a host callback has not recorded it at FIT_START.

        Example:
          >>> def norm(loop, event):
          ...     if event is jl.Event.UPDATE_START:
          ...         return loop.record("gradient_norm", optax.tree.norm(loop.gradient))
          ...     return loop
        """
        check_name("Loop.record", name)
        if is_rate(name):  # a float also where the optimizer was given a whole number
            value = jnp.asarray(value, jnp.float32)
        known = getattr(self.stats.get(name), "dtype", None)
        return self.replace(stats=self.stats | {name: as_statistic("Loop.record", name, value, known)})

    def remember(self, name: str, value: Any, lasting: bool = False, *, evaluated: bool = False) -> "Loop":
        """This loop with `callback_state[name]` set, unless it is there already.

        Call it at `FIT_START`. Change the memory later by `loop.replace(callback_state=loop.callback_state | {...})`.

        Args:
          name: the key; every callback has its own.
          value: PyTree of arrays or numbers.
          lasting: whether the next fit on this loop keeps it. Otherwise that fit begins without it.
          evaluated: whether an evaluation depends on it as it does on the model, for example on an average that
            replaces the parameters. Then `early_stopping(restore_best=True)` restores it together with the model.

        Example:
          >>> def average_weights(loop, event, decay=0.999):
          ...     loop = loop.remember("average", loop.model.params, lasting=True)
          ...     if event is jl.Event.BATCH_END and loop.phase is jl.Phase.TRAINING:
          ...         old, new = loop.callback_state["average"], loop.model.params
          ...         average = jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, old, new)
          ...         loop = loop.replace(callback_state=loop.callback_state | {"average": average})
          ...     return loop
        """
        if not isinstance(name, str):  # JAX would fail to sort the keys
            raise TypeError(f"Loop.remember: `name` must be a string, got {name!r}.")
        kept = self.evaluated | {name} if evaluated else self.evaluated
        loop = self if kept == self.evaluated else self.replace(evaluated=kept)
        if name in self.callback_state:
            return loop
        memory = self.callback_state | {name: jax.tree.map(_array, value)}
        kept = self.lasting | {name} if lasting else self.lasting
        return loop.replace(callback_state=memory, lasting=kept)

    def step_key(self, name: str) -> jax.Array:
        """A PRNG key for this step and one purpose, such as augmentation, dropout or noise.

        Args:
          name: the purpose. Different names give independent keys.

        Returns:
          key[], a function of the run's key, the name, the phase and `step`; in validation of its set and of
          `batch_index` too.
        """
        validating = self.phase is Phase.VALIDATION
        # A checksum, since Python's own hash of a string differs from process to process.
        purpose = zlib.crc32(f"{'training' if self.split is None else self.split.name}/{name}".encode())
        key = jax.random.fold_in(jax.random.fold_in(self.key, purpose), self.step)
        return jax.random.fold_in(key, self.batch_index) if validating else key

    def hyperparameter(self, name: str, *, group: str | None = None) -> Any:
        """The value of a hyperparameter that `optax.inject_hyperparams` exposes.

        Args:
          name: as in `optax.inject_hyperparams(optax.sgd)(learning_rate=0.1)`: `"learning_rate"`.
          group: the part of the optimizer that is meant, where several expose it: the label that `optax.partition`
            gives its parameters. `hyperparameters(name)` has all.

        Raises:
          ValueError: the optimizer exposes no such hyperparameter, or several and no group is given, or none in this
            group. The message has the groups that there are.
        """
        return the_one("Loop.hyperparameter", self.opt_state, name, group).value

    def hyperparameters(self, name: str) -> dict[str | None, Any]:
        """The values of a hyperparameter by group; one that is alone and has no label is under None.

        Example:
          >>> for group, rate in loop.hyperparameters("learning_rate").items():
          ...     loop = loop.with_hyperparameter("learning_rate", 0.5 * rate, group=group)
        """
        return {place.group or None: place.value for place in exposed(self.opt_state, name)}

    def with_hyperparameter(self, name: str, value: Any, *, group: str | None = None) -> "Loop":
        """This loop with another value for a hyperparameter that `optax.inject_hyperparams` exposes.

        Args:
          name, group: as in `hyperparameter`.
          value: float[], may be traced.

        Raises:
          ValueError: as `hyperparameter`; or the optimizer drives it by a schedule of its own, or was given a whole
            number for it, which it keeps as an integer.
        """
        where = "Loop.with_hyperparameter"
        place = the_one(where, self.opt_state, name, group)
        return self.replace(opt_state=with_value(where, self.opt_state, place, value))

    def __repr__(self) -> str:
        leaves = jax.tree.leaves(self.model.params)
        count = sum(leaf.size for leaf in leaves)
        size = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
        place = self.split.name if self.split else "between phases"
        measured = [name for name, value in self.stats.items() if _is_shown(value)]
        stats = ", ".join(f"{name} {_show(self.stats[name])}" for name in measured)
        return "\n".join(
            [
                f"Loop({place}, step {_show(self.step)}, "
                f"epoch {_show(self.epoch_index)} of {_show(self.epoch_count)}, "
                f"batch {_show(self.batch_index)} of {_show(self.batch_count)})",
                f"  model: {count:,} parameters in {len(leaves)} arrays, {size / 1e6:.3g} MB",
                f"  stats: {stats or 'nothing measured yet'}",
                f"  callbacks remember: {', '.join(sorted(self.callback_state)) or 'nothing'}",
            ]
        )


FIELDS = frozenset(field.name for field in dataclasses.fields(Loop))


def _set_nothing(loop: Loop, name: str, value: Any = None) -> NoReturn:
    fix = f"loop = loop.replace({name}=...)" if name in FIELDS else f"loop = loop.record({name!r}, value)"
    raise dataclasses.FrozenInstanceError(f"Loop: `{name}` cannot be set: a loop is a value. Write {fix}.")


def _find_nothing(loop: Loop, name: str) -> NoReturn:
    held = vars(loop).get("stats", {}) if not name.startswith("__") else {}
    fix = f" Write loop.stats[{name!r}]." if name in held else ""
    raise AttributeError(f"'Loop' object has no attribute {name!r}.{fix}", name=name, obj=loop)


# A frozen dataclass allows no methods of these names, and would say less.
Loop.__setattr__ = _set_nothing  # type: ignore[assignment,method-assign]
Loop.__delattr__ = _set_nothing  # type: ignore[assignment,method-assign]
Loop.__getattr__ = _find_nothing  # type: ignore[attr-defined]


def new_loop(model: Model, opt_state: Any, key: jax.Array) -> Loop:
    """A loop at the start of its life: counters 0, nothing measured, nothing remembered."""
    return Loop(
        model=model,
        opt_state=opt_state,
        key=key,
        **cast(Any, dict.fromkeys(("first_step", *COUNTERS), np.int32(0))),
        metrics={},
        stats={},
        callback_state={},
        stop=np.int32(0),
    )


def _array(value: Any) -> jax.Array:
    return jnp.asarray(strong(value))


def _is_shown(value: Any) -> bool:
    """Whether a statistic was measured. True where that cannot be found out, since a repr must not raise."""
    try:
        return isinstance(value, Tracer) or bool(is_measured(value))
    except (TypeError, ValueError, RuntimeError):
        return True


def _show(value: Any) -> str:
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError):  # traced or deleted: a repr must not raise
        return "?"
    if array.dtype == object:  # only a shape and a dtype
        return "?"
    if array.shape != ():
        return kind_name(array)
    return f"{array.item():.4g}" if np.issubdtype(array.dtype, np.floating) else str(array.item())
