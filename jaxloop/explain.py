"""`explain`: what a training loop will do: which callback acts where, in which programs, and why so."""

import sys
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

import jax

from jaxloop.callback import Callbacks, name_of, sort_out
from jaxloop.callbacks import Checkpoint
from jaxloop.engine.ahead import look_ahead
from jaxloop.engine.compiled import compiled_step
from jaxloop.engine.host import Host
from jaxloop.engine.hosted import cuts_of
from jaxloop.engine.phase_steps import Entered
from jaxloop.engine.session import Session
from jaxloop.events import Event, Phase, Split
from jaxloop.loop import Loop
from jaxloop.placement import On, Placement
from jaxloop.placement.divisions import axes_of
from jaxloop.plainly import plainly
from jaxloop.programs.cost import bytes_on_one_device
from jaxloop.programs.fusing import Fusing
from jaxloop.programs.programs import step_name
from jaxloop.shardings import shardings_of
from jaxloop.step_spec import StepSpec
from jaxloop.training_loop import TrainingLoop

#: A name, and arrays, each with where it lies.
_Row = tuple[str, Sequence[tuple[Any, Any]]]
_ORDER = {
    Event.FIT_START: 0,
    Event.EPOCH_START: 1,
    Event.TRAINING_START: 2,
    Event.VALIDATION_START: 2,
    Event.BATCH_START: 3,
    Event.UPDATE_START: 3,
    Event.INFERENCE_PREDICTION_END: 3,
    Event.BATCH_END: 3,
    Event.TRAINING_END: 2,
    Event.VALIDATION_END: 2,
    Event.EPOCH_END: 1,
    Event.FIT_END: 0,
}


@plainly
def explain(
    training_loop: TrainingLoop,
    model_or_loop: Any = None,
    *,
    epochs: int = 1,
    on: On = None,
    costs: bool = False,
    file: TextIO | None = None,
) -> None:
    """Prints what a fit would do: callback by event, compiled or on the host; the programs; steps per dispatch and why.

    With a model it also says at which events each compiled callback does something, how the steps are fused, how large
    model, optimizer and what callbacks remember are, and how they lie on several devices. That takes an abstract trace;
    no step is compiled. Of steps that were compiled it also says what `TrainingLoop.compile` tells.

    Args:
      training_loop: what is explained.
      model_or_loop: as in `fit`; None for what can be told without.
      epochs: of the fit, for callbacks that depend on it.
      on: as in `fit`; or a machine that is not there, see `topology`.
      costs: whether to compile the steps, to say what they take of each device and what the devices send each other.
      file: where it is printed; standard output by default.

    Raises:
      TypeError: `training_loop` is none.

    Example:
      >>> jl.explain(training_loop, model)
      >>> jl.explain(training_loop, model, on=jl.topology("v5e:2x4"), costs=True)
    """
    if not isinstance(training_loop, TrainingLoop):
        got = type(training_loop).__name__
        raise TypeError(f"explain: expected a TrainingLoop, got {got}. Write explain(training_loop, model).")
    setup = training_loop.setup
    callbacks = sort_out(setup.callbacks)
    acts: frozenset[tuple[int, Event]] | None = None
    about_steps, about_model = ["Give a model to see the programs: explain(training_loop, model)."], []
    if model_or_loop is not None:
        session, walk = look_ahead(setup, model_or_loop, epochs, on)
        acts, phases = session.trace.acts, list(walk)
        about_steps = list(_steps(session, phases, Host(callbacks.host, session.placement), costs))
        about_model = list(_model(session.placement, phases[0].loop))
    lines = [*_callbacks(callbacks), *_table(callbacks, acts), *about_steps, *about_model]
    print("\n".join(lines), file=file or sys.stdout)


def _callbacks(callbacks: Callbacks) -> Iterator[str]:
    """Each callback with its number: the compiled, then those on the host."""
    yield "Callbacks"
    everyone = [*callbacks.compiled, *callbacks.host]
    width = max((len(name_of(callback)) for callback in everyone), default=0)
    for number, callback in enumerate(everyone, start=1):
        declaration = getattr(callback, "host_declaration", None)
        how = "compiled" if declaration is None else f"on the host, reads {declaration.reads}"
        if isinstance(callback, Checkpoint):
            how = f"saves the run after all others, every {_interval(callback)}"
        yield f"  {number:2}  {name_of(callback):{width}}  {how}"
    if not everyone:
        yield "  none"


def _interval(checkpoint: Checkpoint) -> str:
    every = checkpoint.every
    return f"{every} steps" if isinstance(every, int) else str(every)


def _table(callbacks: Callbacks, acts: frozenset[tuple[int, Event]] | None) -> Iterator[str]:
    """A row for each event, a column for each callback."""
    everyone = [*callbacks.compiled, *callbacks.host]
    if not everyone:
        return
    yield "Events" + " " * 28 + " ".join(f"{number:2}" for number in range(1, len(everyone) + 1))
    used: set[str] = set()
    for event, depth in _ORDER.items():
        marks = [_compiled_mark(place, event, acts) for place in range(len(callbacks.compiled))]
        marks += [_host_mark(callback, event) for callback in callbacks.host]
        used.update(marks)
        yield f"  {'  ' * depth + event.name:30}   " + " ".join(f"{mark:>2}" for mark in marks)
    meanings = {
        "c": "compiled in",
        "?": "compiled in where it does something",
        "p": "called in Python",
        "o": "observes rows, one dispatch late",
        "|": "called in Python, and the step is cut for it",
    }
    yield "  " + "; ".join(f"{mark} {meaning}" for mark, meaning in meanings.items() if mark in used)


def _compiled_mark(place: int, event: Event, acts: frozenset[tuple[int, Event]] | None) -> str:
    if acts is None:
        return "?"
    return "c" if (place, event) in acts else "."


def _host_mark(callback: Any, event: Event) -> str:
    if event not in callback.host_declaration.events:
        return "."
    if not event.in_step:
        return "p"
    cut = any(event in cuts_of(callback, phase) for phase in Phase)
    return "|" if cut else "o"


def _steps(session: Session, phases: Sequence[Entered], host: Host, costs: bool) -> Iterator[str]:
    """The programs of the steps, and those between them."""
    yield "Programs"
    yield f"  on {session.placement.describe()}"
    yield from _precision(session.spec)
    for entered in phases:
        steps, cuts = entered.steps, host.cuts(entered.phase)
        fusing = Fusing(1, "the host looks into each step") if cuts else steps.fusing(entered.wire)
        yield from _one_phase(entered.split, len(steps.feed), fusing, cuts)
        if not cuts and (costs or steps.program(steps.feed.expected(fusing.steps)).compiled is not None):
            yield from (f"    {line}" for line in str(compiled_step(entered)).splitlines())
    between = [event.name for event in _ORDER if event in session.trace.active]
    yield f"  between steps: {', '.join(between) or 'none; no compiled callback does anything there'}"


def _precision(spec: StepSpec) -> Iterator[str]:
    """How a batch is split, and in which dtype it goes through the model, if that was chosen."""
    chosen = [f"a batch of training is taken as {spec.accumulate} microbatches"] if spec.accumulate > 1 else []
    chosen += [] if spec.compute_dtype is None else [f"forward passes are computed in {spec.compute_dtype.name}"]
    if chosen:
        yield f"  {'; '.join(chosen)}"


def _one_phase(split: Split, batch_count: int, fusing: Fusing, cuts: frozenset[Event]) -> Iterator[str]:
    whole, rest = divmod(batch_count, fusing.steps)
    dispatches = f"{whole} x {fusing.steps}" + (f" + {rest}" if rest else "")
    yield f"  {step_name(split)}: {batch_count} steps, dispatched as {dispatches}: {fusing.why}"
    if cuts:
        yield f"    cut at {', '.join(event.name for event in _ORDER if event in cuts)}"


def _model(placement: Placement, loop: Loop) -> Iterator[str]:
    """Parameters and state by the first part of their path, then the optimizer and what callbacks remember.

    On several devices each row also says how the arrays are divided, and what a device has of them.
    """
    yield "Model"
    places = shardings_of(placement, loop)
    rows = [
        *_parts("params", loop.model.params, places.model.params),
        *_parts("state", loop.model.state, places.model.state),
        *_whole("optimizer", loop.opt_state, places.opt_state),
        *_whole("callbacks remember", loop.callback_state, places.callback_state),
    ]
    width = max((len(name) for name, _ in rows), default=0)
    for name, pairs in rows:
        numbers, size = sum(leaf.size for leaf, _ in pairs), sum(leaf.size * leaf.dtype.itemsize for leaf, _ in pairs)
        held = f"{numbers:>12,} numbers in {len(pairs):>3} array{' ' if len(pairs) == 1 else 's'}"
        yield f"  {name:{width}}  {held}  {size / 1e6:>9.4g} MB" + ("" if placement.single else _divided(pairs))


def _parts(kind: str, tree: Any, places: Any) -> Iterator[_Row]:
    """A row for each part of a tree, then one for the whole."""
    parts: dict[str, list[tuple[Any, Any]]] = {}
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    for (path, leaf), place in zip(leaves, jax.tree.leaves(places), strict=True):
        parts.setdefault(kind + jax.tree_util.keystr(path[:1]), []).append((leaf, place))
    yield from parts.items()
    yield from _whole(f"{kind}, all", tree, places)


def _whole(name: str, tree: Any, places: Any) -> Iterator[_Row]:
    pairs = list(zip(jax.tree.leaves(tree), jax.tree.leaves(places), strict=True))
    if pairs:
        yield name, pairs


def _divided(pairs: Sequence[tuple[Any, Any]]) -> str:
    """How arrays are divided, and the bytes that one device has of them."""
    size = sum(bytes_on_one_device(leaf, place) for leaf, place in pairs)
    axes = [{name for entry in place.spec for name in axes_of(entry)} for _, place in pairs]
    divided = [found for found in axes if found]
    by = f"{len(divided)} divided by {' and '.join(sorted(set().union(*divided)))}" if divided else "none divided"
    return f", {size / 1e6:>9.4g} MB of each device: {by}"
