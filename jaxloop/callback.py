"""What a callback is: compiled or on the host, bound to the plan of a fit, and called at events."""

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

import jax
import jax.numpy as jnp

from jaxloop.events import Event, Plan
from jaxloop.in_place import check_untouched, held_by
from jaxloop.kinds import kept, strong
from jaxloop.loop import FIELDS, STATIC_FIELDS, Loop
from jaxloop.missing import note_missing
from jaxloop.signatures import check_callback

Reads = Literal["stats", "step", "loop"]
Target = TypeVar("Target")
_WRITE_ONE = (
    "Call one, as jaxloop.callbacks.early_stopping(), or write a function. Under "
    "@jaxloop.on_host(jaxloop.Event.EPOCH_END) it runs in Python."
)
_MAKE_ROOM = "Make room for it at FIT_START, by loop.remember(...)."
_CONVERT = "Convert it, by `.astype(...)` or `.reshape(...)`."


class Callback(Protocol):
    """A pure function `loop, event -> loop`, traced at all twelve events into the programs of the run.

    It may have a method `bind(plan) -> callback`, which is called once per fit, before anything is traced. It may also
    have an attribute `companion`: a host callback that does what compiled code cannot, such as raise, print or write.
    Companions are called after all host callbacks of the list, in list order. A callback tells its companion things
    only through the loop. So what a compiled callback remembers is in every checkpoint, as a part of the loop. A
    companion that remembers more needs `state` and `resume`, as any host callback; see `on_host`.

    Example:
      >>> @jl.on_host(jl.Event.FIT_END, reads="loop")
      ... def complain(loop, event):
      ...     if loop.callback_state["overruns"] > 0:
      ...         raise RuntimeError("The queue has run over.")
      >>> @dataclass(frozen=True)
      ... class CountOverruns:
      ...     companion = complain
      ...
      ...     def __call__(self, loop, event): ...
    """

    def __call__(self, loop: Loop, event: Event) -> Loop: ...


@dataclass(frozen=True)
class HostDeclaration:
    """What a host callback declares: the events at which it is called, and what it reads there.

    Attributes:
      events: all events at which it is called.
      reads: what it reads at each event that is not in `deeper`.
      deeper: single events at which it reads more. An observer of rows can so read the loop between two phases, or a
        gradient, and pays only for that event.
      every_process: whether it runs on each of several processes, and not only on the first.
    """

    events: frozenset[Event]
    reads: Reads
    deeper: tuple[tuple[Event, Reads], ...] = ()
    every_process: bool = False

    def reads_at(self, event: Event) -> Reads:
        """What it reads at `event`."""
        return dict(self.deeper).get(event, self.reads)


def on_host(*events: Event, reads: Reads = "stats", every_process: bool = False) -> Callable[[Target], Target]:
    """Declares a function `(loop, event)`, or a class with such a `__call__`, as a host callback.

    It runs in Python. At `BATCH_END` with `reads="stats"` it is an observer. An observer gets the row of every step, in
    order, one dispatch late, and the device never waits for it. At other step events, or if it reads more, the run
    takes one step per dispatch, and cuts the step's program at the events that the callback asks for. Host callbacks
    are called in list order, but at `FIT_START` and `EPOCH_END` those with `rows` come last, to log what others record.

    A class may define further methods and attributes:

    - `rows(columns)`: gets all rows of a dispatch at once, as NumPy columns, in place of the calls at `BATCH_END`. It
      returns None, or the `Scope` that it cancels.
    - `rows_may_wait = True`: `rows` then gets the rows of up to 32 small single steps together, up to a tenth of a
      second later. How late is not the same in each run, so what it cancels should not depend on the rows.
    - `bind(plan)`: gives the callback of one fit.
    - `notice(text, seconds)`: gets a line that is meant for a person, and how long its cause took.
    - `close()`: is called once after the fit, however the fit ends. An exception from `close` never hides why the fit
      ended: it becomes a note on that exception, or a warning if the fit has ended well.
    - `ended(how)`: is called right before `close`. `how` is `"completed"`, `"cancelled"`, `"preempted"` (SIGTERM has
      come, and the run was saved) or `"failed"` (an exception ends the fit).
    - `state()` and `resume(loop, state)`: what a checkpoint keeps of the callback, and how it goes on from there.

    The engine calls `state` at a checkpoint: between two dispatches of a phase, between epochs, or after FIT_END. It
    gives a dictionary that JSON can hold, without NaN. What the callback has written must outlive the machine by then
    (`os.fsync`). A run that is resumed calls `resume` in place of FIT_START, in a new process, before anything else.
    `resume` gets a loop as at FIT_START, and what `state` gave. It must bring the callback to where it was, so it cuts
    files that have grown since the checkpoint. No START event of the phase and the epoch at hand comes again. Rows that
    were told before the checkpoint do not come again, and all later ones do. A callback without these two methods goes
    on in a resumed run without FIT_START.

    Args:
      *events: where it is called.
      reads: `"stats"`: counters and statistics. `"step"`: also input, target, weight, output, loss and gradient.
        `"loop"`: the `Loop` itself; what the callback returns replaces it, and `None` leaves it unchanged.
      every_process: whether it runs on each process of a run on several hosts. If not, only the first process calls it.
        One that reads the loop runs on each, and must return the same there.

    Example:
      >>> @jl.on_host(jl.Event.EPOCH_END)
      ... def tell(loop, event):
      ...     print(int(loop.epoch_index), loop.stats["loss"])

      One that goes on counting in a resumed run:

      >>> @jl.on_host(jl.Event.BATCH_END)
      ... class CountSpikes:
      ...     def __init__(self):
      ...         self.count = 0
      ...
      ...     def __call__(self, loop, event):
      ...         self.count += int(loop.stats["loss"] > 10)
      ...
      ...     def state(self):
      ...         return {"count": self.count}
      ...
      ...     def resume(self, loop, state):
      ...         self.count = state["count"]
    """
    strangers = [event for event in events if not isinstance(event, Event)]
    if strangers or not events:
        got = f"{strangers[0]!r}" if strangers else "none"
        raise TypeError(f"on_host: expected one or more jaxloop.Event, got {got}. Write @on_host(Event.EPOCH_END).")
    if reads not in ("stats", "step", "loop"):
        raise ValueError(f"on_host: `reads` must be 'stats', 'step' or 'loop', got {reads!r}.")
    declaration = HostDeclaration(frozenset(events), reads, every_process=every_process)

    def declare(target: Any) -> Any:
        if isinstance(target, type):
            target.host_declaration = declaration  # type: ignore[attr-defined]
            return target
        return _HostFunction(target, declaration)

    return declare


@dataclass(frozen=True)
class _HostFunction:
    """A function with its declaration."""

    function: Callable[..., Any]
    host_declaration: HostDeclaration

    def __call__(self, loop: Any, event: Event) -> Any:
        return self.function(loop, event)

    @property
    def __name__(self) -> str:
        return name_of(self.function)


@dataclass(frozen=True)
class Callbacks:
    """The callbacks of a fit, in list order: the compiled ones, and those on the host with the companions last."""

    compiled: tuple[Callback, ...]
    host: tuple[Any, ...]

    @functools.cached_property
    def uses_plan(self) -> bool:
        """Whether a compiled callback is bound to the plan, so that its programs depend on it."""
        return any(hasattr(callback, "bind") for callback in self.compiled)


def bound(callbacks: Sequence[Any], plan: Plan | None) -> tuple[Any, ...]:
    """The callbacks, each bound to `plan` if it has a method `bind`."""
    return tuple(callback.bind(plan) if plan and hasattr(callback, "bind") else callback for callback in callbacks)


def sort_out(*lists: Sequence[Any]) -> Callbacks:
    """Separates compiled callbacks from host callbacks, and adds the companions to the latter.

    Raises:
      TypeError: a list is a single callback, or can be read only once; or a callback is not callable, does not take
        (loop, event), or is a class that was not called; or a companion is not a host callback.
    """
    for given in lists:
        if given is None:
            raise TypeError("callbacks: expected a list of callbacks, got None. Leave it out, or write callbacks=[].")
        if callable(given) or isinstance(given, (str, Iterator)):
            fix = "Make a list of it, as [*callbacks]." if isinstance(given, Iterator) else "Put it in brackets."
            raise TypeError(f"callbacks: expected a list of callbacks, got {name_of(given)}. {fix}")
    callbacks = [callback for given in lists for callback in given]
    for callback in callbacks:
        if isinstance(callback, type):
            raise TypeError(f"callbacks: {callback.__name__} is a class; call it: {callback.__name__}(...).")
        if not callable(callback) and not hasattr(callback, "bind"):
            raise TypeError(f"callbacks: each must be a function of (loop, event), got {callback!r}. {_WRITE_ONE}")
        check_callback(callback, name_of(callback))
    on_the_host = [hasattr(callback, "host_declaration") for callback in callbacks]
    compiled = tuple(callback for callback, host in zip(callbacks, on_the_host, strict=True) if not host)
    listed = tuple(callback for callback, host in zip(callbacks, on_the_host, strict=True) if host)
    companions = tuple(_companion(callback) for callback in compiled if hasattr(callback, "companion"))
    return Callbacks(compiled, (*listed, *companions))


def _companion(callback: Any) -> Any:
    """The host callback that belongs to a compiled one."""
    companion = callback.companion
    if isinstance(companion, type) or not hasattr(companion, "host_declaration"):
        raise TypeError(
            f"callbacks: the `companion` of {name_of(callback)!r} must be a host callback, got {name_of(companion)}. "
            "Declare it by @jaxloop.on_host(...)."
        )
    return companion


def within_steps(callback: Any) -> Any:
    """A compiled callback that acts only at FIT_START and at the events of steps, without its companion.

    This is for trial runs, such as a search for the learning rate: they have steps, but no epochs and no validation.
    """

    def call(loop: Loop, event: Event) -> Loop:
        return callback(loop, event) if event.in_step or event is Event.FIT_START else loop

    call.__name__ = call.__qualname__ = name_of(callback)
    call.copies_memory = getattr(callback, "copies_memory", False)  # type: ignore[attr-defined]
    if hasattr(callback, "bind"):
        setattr(call, "bind", lambda plan: within_steps(callback.bind(plan)))  # noqa: B010 functions may have attributes
    return call


def name_of(callback: Any) -> str:
    """The name of a callback for messages: the function's, or the class's."""
    name = getattr(callback, "__qualname__", None) or getattr(callback, "__name__", None)
    return (name or type(callback).__name__).replace("<locals>.", "")


@contextmanager
def noted(callback: Any, event: Event) -> Iterator[None]:
    """Adds a note to an exception: which callback raised it, and at which event. The exception stays the same."""
    try:
        yield
    except Exception as error:
        add_note(error, callback, event)
        raise


def add_note(error: Exception, callback: Any, event: Event) -> None:
    """Adds to `error` the note that `callback` raised it at `event`."""
    error.add_note(f"jaxloop: in callback {name_of(callback)!r} at {event.name}")


def fire(callbacks: Sequence[Callback], loop: Loop, event: Event, *, new_stats: bool = False) -> Loop:
    """Calls the compiled `callbacks` in order and gives the loop that results; at FIT_START some are called last.

    Inside a step every field must keep its structure, shapes and dtypes, or the step would compile again. Between
    steps a field may change its structure and shapes, for example when something is remembered. It may not change only
    its dtype.

    Args:
      callbacks: bound to the plan.
      loop: traced or not.
      event: where the run is.
      new_stats: whether a callback may record a name that is not in `loop.stats` yet.

    Raises:
      TypeError: a callback gave something that is not a loop, changed the kind of a field inside a step, or asked for
        the value of a traced array. The message names callback, event and field.
    """
    if event is Event.FIT_START:  # a callback that copies what others remember must come after them
        callbacks = sorted(callbacks, key=lambda callback: getattr(callback, "copies_memory", False))
    for callback in callbacks:
        result = _call(callback, loop, event)
        loop = same_kind(callback, loop, result, event, new_stats=new_stats)
    return loop


def _call(callback: Callback, loop: Loop, event: Event) -> Loop:
    where = f"callback {name_of(callback)!r} at {event.name}"
    try:
        with noted(callback, event):
            held = held_by(loop)
            result = callback(loop, event)
        check_untouched(where, held)
    except KeyError as error:
        note_missing(error, loop.stats, loop.callback_state)
        raise
    except (
        jax.errors.ConcretizationTypeError,
        jax.errors.TracerArrayConversionError,
        jax.errors.TracerIntegerConversionError,
    ) as error:
        raise TypeError(
            f"{where}: it is compiled, and asked for the value of an array that has none while it is traced "
            "(an `if`, `int()`, `float()` or NumPy on a loop's value). Write `jnp.where(...)` or "
            "`loop.cancel(scope, when=...)`, or run it in Python by @jaxloop.on_host."
        ) from error
    if not isinstance(result, Loop):
        raise TypeError(f"{where}: it must return a loop, got {type(result).__name__}. End it with `return loop`.")
    return result


def same_kind(callback: Any, before: Loop, after: Loop, event: Event, *, new_stats: bool) -> Loop:
    """`after` with Python numbers as arrays, after a check that each field has kept its kind."""
    changed = {}
    for field in sorted(FIELDS):
        old, new = getattr(before, field), getattr(after, field)
        if new is old:  # also of a tracer that the callback has left alone
            continue
        where = f"callback {name_of(callback)!r} at {event.name}: field {field!r}"
        if not event.in_step and (field in STATIC_FIELDS or _structure(old) != _structure(new)):
            changed[field] = new if field in STATIC_FIELDS else jax.tree.map(strong, new)
            continue
        if field in STATIC_FIELDS:
            raise TypeError(f"{where} is static and cannot change inside a step. Change it between steps.")
        if field == "stats" and new_stats:  # a name that is recorded for the first time has no kind to keep
            old = new | old
        changed[field] = kept(where, old, new, structure_fix=_MAKE_ROOM, leaf_fix=_CONVERT)
    return after.replace(**changed) if changed else after


def _structure(tree: Any) -> Any:
    leaves, structure = jax.tree.flatten(tree)
    return structure, [jnp.shape(leaf) for leaf in leaves]
