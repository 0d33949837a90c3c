"""The compiled programs of a training loop, each kept by what it depends on."""

import functools
import time
import weakref
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import jax

from jaxloop.events import Event, Phase
from jaxloop.loop import Loop
from jaxloop.placement import Device
from jaxloop.programs.canonical import canonical, looks_into_values
from jaxloop.programs.step_trace import TracedStep
from jaxloop.step import run_steps, stages, step
from jaxloop.step_spec import StepSpec
from jaxloop.wire import Wire, WireLayout

STEP_NAMES = {Phase.TRAINING: "training_step", Phase.VALIDATION: "validation_step"}


class Program:
    """A jitted function that is compiled ahead of its first call, or by it, and tells how long that took.

    Attributes:
      name: for messages, and in profiles.
      jitted: the function; calling it takes what was compiled ahead for arguments of that kind.
      compile_seconds: tracing and compiling, None before.
      compiled: what was compiled ahead, for its report; None before.
    """

    def __init__(self, name: str, function: Callable[..., Any], **jit_options: Any):
        def named(*arguments: Any) -> Any:
            return function(*arguments)

        named.__name__ = named.__qualname__ = name.replace(" ", "_")
        self.name = name
        self.jitted: Any = jax.jit(named, **jit_options)
        self.compile_seconds: float | None = None
        self.compiled: Any = None
        self._traced: Any = None

    def __call__(self, *arguments: Any) -> Any:
        if self.compile_seconds is not None:
            return self.jitted(*arguments)
        start = time.perf_counter()
        result = self.jitted(*arguments)
        self.compile_seconds = time.perf_counter() - start
        return result

    def jaxpr(self, *arguments: Any) -> Any:
        """What tracing makes of it, for `arguments` of just these shapes and dtypes; they may be abstract."""
        if self._traced is None:
            self._traced = self.jitted.trace(*arguments)
        return self._traced.jaxpr

    def compile(self, *arguments: Any) -> None:
        """Compiles ahead, for arguments as `jaxpr` takes them."""
        start = time.perf_counter()
        self.jaxpr(*arguments)
        self.compiled = self._traced.lower().compile()
        self._traced = None
        self.compile_seconds = time.perf_counter() - start


class ByIdentity:
    """An object compared by identity, and kept, so that its `id` is never another's."""

    def __init__(self, value: Any):
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ByIdentity) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


class Programs:
    """Programs and what was found out by tracing, kept across fits.

    The keys hold the objects they are made of, compared by identity, so that none can be mistaken for another. A copy
    begins empty, since what it would be asked for is made of other objects.
    """

    def __init__(self) -> None:
        self._kept: dict[Hashable, Any] = {}
        self._traced: dict[tuple[StepSpec, Phase], TracedStep] = {}
        self._residents: dict[Hashable, tuple[list[Any], list[Any]]] = {}
        self._lent: weakref.WeakSet[StepSpec] = weakref.WeakSet()

    def __reduce__(self) -> Any:
        return Programs, ()

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What is kept under `key`, made now if there is nothing yet."""
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]

    def lend(self, spec: StepSpec, *, to_one_fit: bool) -> None:
        """Lets go of what was made for the callbacks of single fits before, now that a fit of `parts` begins.

        Args:
          spec: are kept: the next fit with the same callbacks compiles nothing.
          to_one_fit: whether some of their callbacks belong to this fit alone.
        """
        if to_one_fit:
            self._lent.add(spec)
        gone = {id(lent) for lent in self._lent if lent is not spec}
        for key, value in list(self._kept.items()) if gone else ():
            if not gone.isdisjoint(map(id, (*key, value) if isinstance(key, tuple) else (value,))):
                del self._kept[key]

    def resident(self, samples: Any, device: Device) -> Any:
        """The samples on `device`, put there once and kept as long as somebody else keeps one of their arrays."""
        leaves, tree = jax.tree.flatten(samples)
        key, residents = (device, *map(id, leaves)), self._residents

        def forget(_: Any) -> None:
            residents.pop(key, None)

        if key not in residents:  # a copy: what shares the memory of an array would keep it
            copies = [jax.device_put(leaf, device, may_alias=False) for leaf in leaves]
            residents[key] = [weakref.ref(leaf, forget) for leaf in leaves], copies
        return tree.unflatten(residents[key][1])

    def hold(self, spec: StepSpec, steps: Mapping[Phase, TracedStep]) -> None:
        """Holds steps that were traced just now, for the programs of the run that begins, in place of those before.

        A later run may be told otherwise by JAX's configuration, such as another precision, and traces anew.
        """
        self._traced = {(spec, phase): step for phase, step in steps.items()}

    def steps(
        self,
        spec: StepSpec,
        layout: WireLayout,
        phase: Phase,
        count: int,
        *,
        device: Device | None = None,
        kind: Hashable = None,
        prepare: Any = None,
        packing: Any = None,
        donates: bool = True,
    ) -> Program:
        """`program(wire, batches, resident) -> (wire, rows)`: `count` steps over the wire, donated if it `donates`.

        For `count` 1 `batches` is one batch and `rows` int32[row]; else both have a leading axis of `count`. Where
        batches come in several shapes there is a program for each `kind`. What it is given may lie on the host: that
        all belongs on `device` is part of the program, so a NumPy vector at a phase's start compiles nothing anew.
        Where `packing` is not None, the one batch comes packed. Where `prepare` is not None, it makes the batch of what
        travels and of the `resident` samples.
        """
        key = ("steps", spec, layout, phase, count, device, kind, prepare, packing, donates)
        options = {"donate_argnums": 0} if donates else {}
        return self.get(key, lambda: self._steps(spec, layout, phase, count, device, prepare, packing, options))

    def preparing(self, prepare: Callable[..., Any]) -> Program:
        """`program(resident, batch) -> batch`: what the step's program begins with, by itself."""
        return self.get(("prepare", prepare), lambda: Program("prepare", prepare))

    def event(self, spec: StepSpec, layout: WireLayout, event: Event) -> Callable[[Loop], Loop]:
        """What the compiled callbacks do at a phase event; only what they change goes through the program."""
        return self.get(("event", spec, layout, event), lambda: _event(spec, layout, event))

    def stages(self, spec: StepSpec, phase: Phase, cuts: frozenset[Event]) -> list[tuple[Program, Event | None]]:
        """The step in one phase jitted apart behind the events of `cuts`, each program with its event."""
        return self.get(("stages", spec, phase, cuts), lambda: _stages(spec, phase, cuts))

    def _steps(
        self,
        spec: StepSpec,
        layout: WireLayout,
        phase: Phase,
        count: int,
        device: Device | None,
        prepare: Any,
        packing: Any,
        options: dict[str, Any],
    ) -> Program:
        platform = jax.default_backend() if device is None else device.platform
        on_cpu = platform == "cpu"  # where convolutions inside a loop want their axes in one order

        def one(wire: Wire, batch: Any, resident: Any) -> tuple[Wire, Any]:
            batch = batch if packing is None else packing.unpack(batch)
            if prepare is not None:
                batch = (canonical(prepare) if on_cpu else prepare)(resident, batch)
            before = layout.unpack(wire)
            traced = None if looks_into_values() else self._traced.get((spec, phase))
            if traced is not None and traced.takes(before, batch):
                after, counted = (traced.canonical if on_cpu else traced)(before, batch)
            else:
                whole = functools.partial(step, spec)
                after, counted = (canonical(whole) if on_cpu else whole)(before, batch)
            wire = layout.pack(after, counted, wire[0], before, in_place=count > 1)
            return wire, wire[0][: layout.row]

        def many(wire: Wire, batches: Any, resident: Any) -> tuple[Wire, Any]:
            return run_steps(lambda wire, batch: one(wire, batch, resident), wire, batches, count)

        name = STEP_NAMES[phase] + (f" x{count}" if count > 1 else "")
        place = None if device is None else jax.sharding.SingleDeviceSharding(device)
        placed = {} if place is None else {"in_shardings": (place, place, place)}
        return Program(name, one if count == 1 else many, **options, **placed)


def _event(spec: StepSpec, layout: WireLayout, event: Event) -> Callable[[Loop], Loop]:
    traced: list[Any] = []  # structure of the result, and for each leaf where it comes from: found by tracing

    def changed(leaves: list[Any]) -> list[Any]:
        result, tree = jax.tree.flatten(spec.fire(jax.tree.unflatten(layout.tree, leaves), event))
        free = {id(leaf): index for index, leaf in enumerate(leaves)}
        places = [free.pop(id(leaf), None) for leaf in result]  # a second use becomes an array of its own
        traced[:] = [tree, places]
        return [leaf for leaf, place in zip(result, places, strict=True) if place is None]

    program = Program(event.value, changed)

    def call(loop: Loop) -> Loop:
        leaves = jax.tree.leaves(loop)
        new = iter(program(leaves))
        tree, places = traced
        return jax.tree.unflatten(tree, [next(new) if place is None else leaves[place] for place in places])

    return call


def _stages(spec: StepSpec, phase: Phase, cuts: frozenset[Event]) -> list[tuple[Program, Event | None]]:
    events = (Event.BATCH_START, phase.step_event, Event.BATCH_END, None)
    programs, group = [], []
    for stage, event in zip(stages(phase), events, strict=True):
        group.append(stage)
        if event is None or event in cuts:
            name = f"{STEP_NAMES[phase]} to {event.value if event else 'its end'}"
            programs.append((Program(name, _composed(spec, tuple(group))), event))
            group.clear()
    return programs


def _composed(spec: StepSpec, group: tuple[Callable[..., Any], ...]) -> Callable[..., Any]:
    def run(loop: Loop, counted: Any) -> tuple[Loop, Any]:
        for stage in group:
            loop, counted = stage(spec, loop, counted, None)
        return loop, counted

    return run
