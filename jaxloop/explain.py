"""`explain`: what a training loop will do: which callback acts where, in which programs, and why so."""

import sys
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

import jax

from jaxloop.callback import Callbacks, name_of, sort_out
from jaxloop.callbacks import Checkpoint
from jaxloop.engine.host import Host, cuts_of
from jaxloop.engine.run import Run
from jaxloop.events import Event, Phase
from jaxloop.model import Model
from jaxloop.placement import On
from jaxloop.programs.fusing import Fusing
from jaxloop.programs.programs import STEP_NAMES
from jaxloop.step_spec import StepSpec
from jaxloop.training_loop import TrainingLoop

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


def explain(
    training_loop: TrainingLoop,
    model_or_loop: Any = None,
    *,
    epochs: int = 1,
    on: On = None,
    file: TextIO | None = None,
) -> None:
    """Prints what a fit would do: callback by event, compiled or on the host; the programs; steps per dispatch and why.

    With a model it also says at which events each compiled callback does something, how the steps are fused, and how
    large the model is. That takes an abstract trace; no step is compiled.

    Args:
      training_loop: what is explained.
      model_or_loop: as in `fit`; None for what can be told without.
      epochs: of the fit, for callbacks that depend on it.
      on: as in `fit`.
      file: where it is printed; standard output by default.

    Example:
      >>> jl.explain(training_loop, model)
    """
    setup = training_loop.setup
    callbacks = sort_out(setup.callbacks)
    acts: frozenset[tuple[int, Event]] | None = None
    about_steps, about_model = ["Give a model to see the programs: explain(training_loop, model)."], []
    if model_or_loop is not None:
        run = setup.run(setup.fit(model_or_loop, epochs, on=on))
        acts = run.session.trace.acts
        about_steps = list(_steps(run, Host(callbacks.host, run.session.placement)))
        about_model = list(_model(run.session.loop.model))
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


def _steps(run: Run, host: Host) -> Iterator[str]:
    """The programs of the steps, and those between them."""
    yield "Programs"
    yield from _precision(run.session.spec)
    for phase, loop, steps in run.walk():
        cuts = host.cuts(phase)
        fusing = Fusing(1, "the host looks into each step") if cuts else steps.fusing(steps.layout.to_wire(loop))
        yield from _one_phase(phase, len(steps.feed), fusing, cuts)
    between = [event.name for event in _ORDER if event in run.session.trace.active]
    yield f"  between steps: {', '.join(between) or 'none; no compiled callback does anything there'}"


def _precision(spec: StepSpec) -> Iterator[str]:
    """How a batch is split, and in which dtype it goes through the model, if that was chosen."""
    chosen = [f"a batch of training is taken as {spec.accumulate} microbatches"] if spec.accumulate > 1 else []
    chosen += [] if spec.compute_dtype is None else [f"forward passes are computed in {spec.compute_dtype.name}"]
    if chosen:
        yield f"  {'; '.join(chosen)}"


def _one_phase(phase: Phase, batch_count: int, fusing: Fusing, cuts: frozenset[Event]) -> Iterator[str]:
    whole, rest = divmod(batch_count, fusing.steps)
    dispatches = f"{whole} x {fusing.steps}" + (f" + {rest}" if rest else "")
    yield f"  {STEP_NAMES[phase]}: {batch_count} steps, dispatched as {dispatches}: {fusing.why}"
    if cuts:
        yield f"    cut at {', '.join(event.name for event in _ORDER if event in cuts)}"


def _model(model: Model) -> Iterator[str]:
    """Parameters and state, by the first part of their path."""
    yield "Model"
    rows = [*_sizes("params", model.params), *_sizes("state", model.state)]
    width = max((len(name) for name, *_ in rows), default=0)
    for name, arrays, count, size in rows:
        held = f"{count:>12,} numbers in {arrays:>3} array{'' if arrays == 1 else 's'}"
        yield f"  {name:{width}}  {held}  {size / 1e6:>9.4g} MB"


def _sizes(kind: str, tree: Any) -> Sequence[tuple[str, int, int, int]]:
    """Name, arrays, numbers and bytes of each part, then of the whole."""
    parts: dict[str, list[Any]] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        parts.setdefault(kind + jax.tree_util.keystr(path[:1]), []).append(leaf)
    everything = [leaf for leaves in parts.values() for leaf in leaves]
    groups = [*parts.items(), (f"{kind}, all", everything)] if everything else []
    return [
        (name, len(leaves), sum(leaf.size for leaf in leaves), sum(leaf.size * leaf.dtype.itemsize for leaf in leaves))
        for name, leaves in groups
    ]
