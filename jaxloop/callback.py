"""What a callback is: compiled or on the host, bound to the plan of a fit, called at an event."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

import jax
import jax.numpy as jnp

from jaxloop.events import Event, Plan
from jaxloop.kinds import kept, strong
from jaxloop.loop import FIELDS, STATIC_FIELDS, Loop

Reads = Literal["stats", "step", "loop"]
Target = TypeVar("Target")
_MAKE_ROOM = "Make room for it at FIT_START, by loop.remember(...)."
_CONVERT = "Convert it, by `.astype(...)` or `.reshape(...)`."


class Callback(Protocol):
    """A pure function `loop, event -> loop`, traced at all twelve events into the programs of the run.

    It may have `bind(plan) -> callback`, which is called once per fit, before anything is traced; and `companion`, a
    host callback that belongs to it and does what compiled code cannot: raise, print, write. Companions come after
    all host callbacks of the list, in list order; all that passes from callback to companion is in the loop.

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
    """What a host callback says of itself: the events it is called at, and what it reads there.

    Attributes:
      events: all of them.
      reads: at each event that is not among `deeper`.
      deeper: single events at which it reads more. So who observes rows may see the loop between two phases, or a
        gradient, and pays for that event alone.
    """

    events: frozenset[Event]
    reads: Reads
    deeper: tuple[tuple[Event, Reads], ...] = ()

    def reads_at(self, event: Event) -> Reads:
        """What it reads at `event`."""
        return dict(self.deeper).get(event, self.reads)


def on_host(*events: Event, reads: Reads = "stats") -> Callable[[Target], Target]:
    """Declares a function `(loop, event)`, or a class with such a `__call__`, as a host callback.

    It runs in Python. At `BATCH_END` with `reads="stats"` it is an observer: it is handed every step's row, in
    order, one dispatch late, and the device never waits for it; a class that defines `rows(columns)` is given
    a dispatch's rows at once instead, and with `rows_may_wait = True` those of many small single steps, up to a tenth
    of a second later. At other step events, or with more to read, the run takes one step per dispatch and cuts
    the step's program where asked. A class may further define `bind(plan)`, which gives the callback of one fit;
    `notice(text, seconds)`, a line for a person; and `close()`, called once when the fit is over, however it ends. What
    `close` raises never hides why a fit ended: it is noted on that; where the fit has ended well, it is warned of.

    Args:
      *events: where it is called.
      reads: `"stats"`, counters and statistics; `"step"`, also input, target, weight, output, loss and
        gradient; `"loop"`, the `Loop` itself, and what is returned takes its place (`None`: unchanged).

    Example:
      >>> @jl.on_host(jl.Event.EPOCH_END)
      ... def tell(loop, event):
      ...     print(int(loop.epoch_index), loop.stats["loss"])
    """
    strangers = [event for event in events if not isinstance(event, Event)]
    if strangers or not events:
        got = f"{strangers[0]!r}" if strangers else "none"
        raise TypeError(f"on_host: expected one or more jaxloop.Event, got {got}. Write @on_host(Event.EPOCH_END).")
    if reads not in ("stats", "step", "loop"):
        raise ValueError(f"on_host: `reads` must be 'stats', 'step' or 'loop', got {reads!r}.")
    declaration = HostDeclaration(frozenset(events), reads)

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
    """The callbacks of a fit, in list order, the compiled apart from those on the host, companions last."""

    compiled: tuple[Callback, ...]
    host: tuple[Any, ...]

    @property
    def uses_plan(self) -> bool:
        """Whether a compiled callback is bound to the plan, so that its programs depend on it."""
        return any(hasattr(callback, "bind") for callback in self.compiled)


def bound(callbacks: Sequence[Any], plan: Plan | None) -> tuple[Any, ...]:
    """The callbacks, each bound to `plan` if it can be."""
    return tuple(callback.bind(plan) if plan and hasattr(callback, "bind") else callback for callback in callbacks)


def sort_out(callbacks: Sequence[Any]) -> Callbacks:
    """Tells compiled callbacks from host callbacks, to which it adds the companions.

    Raises:
      TypeError: one is not callable, is a class that was not called, or is given as a single callback; a companion
        is no host callback.
    """
    if callable(callbacks) or isinstance(callbacks, str):
        raise TypeError(f"callbacks: expected a list of callbacks, got {name_of(callbacks)}. Put it in brackets.")
    for callback in callbacks:
        if isinstance(callback, type):
            raise TypeError(f"callbacks: {callback.__name__} is a class; call it: {callback.__name__}(...).")
        if not callable(callback) and not hasattr(callback, "bind"):
            raise TypeError(f"callbacks: each must be a function of (loop, event), got {callback!r}.")
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
    """A compiled callback at FIT_START and at the events of steps alone, without its companion: for trial runs."""

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
    """Notes on an exception which callback raised it, and at which event; it stays what it is."""
    try:
        yield
    except Exception as error:
        add_note(error, callback, event)
        raise


def add_note(error: Exception, callback: Any, event: Event) -> None:
    """Notes on `error` that `callback` raised it at `event`."""
    error.add_note(f"jaxloop: in callback {name_of(callback)!r} at {event.name}")


def fire(callbacks: Sequence[Callback], loop: Loop, event: Event, *, new_stats: bool = False) -> Loop:
    """Calls the compiled `callbacks` in order and gives what became of the loop; at FIT_START some come last.

    Inside a step every field must keep its structure, shapes and dtypes, or the step would compile again. Between
    steps a field may change its structure and shapes, as when something is remembered, but not a dtype alone.

    Args:
      callbacks: bound to the plan.
      loop: traced or not.
      event: where the run is.
      new_stats: whether a callback may record a name that is not in `loop.stats` yet.

    Raises:
      TypeError: a callback gave something that is no loop, changed the kind of a field inside a step, or
        asked for the value of a traced array. The message names callback, event and field.
    """
    if event is Event.FIT_START:  # what others remember must be there for those that keep a copy of it
        callbacks = sorted(callbacks, key=lambda callback: getattr(callback, "copies_memory", False))
    for callback in callbacks:
        result = _call(callback, loop, event)
        loop = same_kind(callback, loop, result, event, new_stats=new_stats)
    return loop


def _call(callback: Callback, loop: Loop, event: Event) -> Loop:
    where = f"callback {name_of(callback)!r} at {event.name}"
    try:
        with noted(callback, event):
            result = callback(loop, event)
    except KeyError as error:
        if error.args and error.args[0] not in loop.callback_state:
            error.add_note(
                "jaxloop: if it looked into `loop.callback_state`: what is there was made at FIT_START. Give a model, "
                "or a loop from `fit` or `start` of a training loop that has this callback."
            )
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
    """`after`, with Python numbers made arrays, once each field is of the kind that it was before."""
    changed = {}
    for field in sorted(FIELDS):
        old, new = getattr(before, field), getattr(after, field)
        if new is old:
            continue
        where = f"callback {name_of(callback)!r} at {event.name}: field {field!r}"
        if not event.in_step and (field in STATIC_FIELDS or _structure(old) != _structure(new)):
            changed[field] = new if field in STATIC_FIELDS else jax.tree.map(strong, new)
            continue
        if field in STATIC_FIELDS:
            raise TypeError(f"{where} is static and cannot change inside a step. Change it between steps.")
        if field == "stats" and new_stats:
            old = new | old
        changed[field] = kept(where, old, new, structure_fix=_MAKE_ROOM, leaf_fix=_CONVERT)
    return after.replace(**changed) if changed else after


def _structure(tree: Any) -> Any:
    leaves, structure = jax.tree.flatten(tree)
    return structure, [jnp.shape(leaf) for leaf in leaves]
