"""The compiled programs of a training loop, each kept by what it depends on."""

import functools
import time
import weakref
import zlib
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import jax

from jaxloop import asking
from jaxloop.asking import counted_and_asked
from jaxloop.events import Event, Phase, Split
from jaxloop.feeding.prepare import Prepare
from jaxloop.feeding.slots import ChunkSpec
from jaxloop.feeding.specification import rows_of
from jaxloop.long_work import long_work
from jaxloop.loop import Loop
from jaxloop.measured import looks_into_values
from jaxloop.placement import Placement
from jaxloop.programs.canonical import canonical
from jaxloop.programs.memo import Memo
from jaxloop.programs.step_trace import TracedStep
from jaxloop.shardings import divided, pinned, shardings_of
from jaxloop.step import run_steps, stages, step
from jaxloop.step_spec import StepSpec
from jaxloop.wire import Wire, WireLayout


def step_name(split: Split) -> str:
    """What programs of steps are called: "training_step", "validation_step", or by the name of a set of validation."""
    return f"{split.name}_step"


class Program:
    """A jitted function that is compiled before its first call, or by it, and that knows how long that took.

    Attributes:
      name: for messages, and in profiles.
      jitted: the function. A call uses what `compile` has compiled for arguments of that kind, on one device.
      call: what to call: the function, or on several devices what `compile` has compiled.
      compile_seconds: the time of tracing and compiling; None before.
      compiled: what `compile` has compiled, for its report; None before.
      digest: of what `compile` has compiled, where the devices belong to several processes; else 0.
    """

    def __init__(self, name: str, function: Callable[..., Any], **jit_options: Any):
        def named(*arguments: Any) -> Any:
            return function(*arguments)

        named.__name__ = named.__qualname__ = name.replace(" ", "_")
        self.name = name
        self.jitted: Any = jax.jit(named, **jit_options)
        self.call: Any = self.jitted
        self.compile_seconds: float | None = None
        self.compiled: Any = None
        self.digest = 0
        self._traced: Any = None

    def __call__(self, *arguments: Any) -> Any:
        if self.compile_seconds is not None:
            return self.call(*arguments)
        start = time.perf_counter()
        with long_work():
            result = self.jitted(*arguments)
        self.compile_seconds = time.perf_counter() - start
        return result

    def jaxpr(self, *arguments: Any) -> Any:
        """The jaxpr of the program, for arguments of just these shapes and dtypes. They may be abstract."""
        if self._traced is None:
            with long_work():
                self._traced = self.jitted.trace(*arguments)
        return self._traced.jaxpr

    def compile(self, *arguments: Any) -> None:
        """Compiles before the first call, for arguments as `jaxpr` takes them."""
        start = time.perf_counter()
        self.jaxpr(*arguments)
        with long_work():
            lowered = self._traced.lower()
            self.compiled = lowered.compile()
        self._traced = None
        devices = _devices_of(self.compiled)
        if len({device.process_index for device in devices}) > 1:
            self.digest = zlib.crc32(lowered.as_text().encode())
        if len(devices) > 1:  # there `jit` would compile again for what the first call gives back
            self.call = self.compiled
        self.compile_seconds = time.perf_counter() - start


def _devices_of(compiled: Any) -> set[Any]:
    return {device for sharding in jax.tree.leaves(compiled.output_shardings) for device in sharding.device_set}


class Programs:
    """The programs of a training loop, kept across fits."""

    def __init__(self) -> None:
        self._kept = Memo()
        self._traced: dict[tuple[StepSpec, Split], TracedStep] = {}
        self._lent: weakref.WeakSet[StepSpec] = weakref.WeakSet()

    def __len__(self) -> int:
        return len(self._kept)

    def __reduce__(self) -> Any:
        return Programs, ()

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """The program that is kept under `key`, made now if there is none yet."""
        return self._kept.get(key, make)

    def lend(self, spec: StepSpec, *, to_one_fit: bool) -> set[int]:
        """Drops what was made for the callbacks of earlier single fits, now that a fit of `spec` begins.

        Args:
          spec: what is made for it is kept: the next fit with the same callbacks compiles nothing.
          to_one_fit: whether some of its callbacks belong to this fit only.

        Returns:
          The `id` of each specification that was dropped, for `Memo.forget`.
        """
        if to_one_fit:
            self._lent.add(spec)
        gone = {
            id(each) for lent in self._lent if lent is not spec for each in (lent, lent.unbound) if each is not None
        }
        self._kept.forget(gone)
        return gone

    def hold(self, spec: StepSpec, steps: Mapping[Split, TracedStep]) -> None:
        """Holds steps that were just traced, for the programs of the run that begins. Earlier ones are dropped.

        They are not kept for later runs: JAX's configuration may have changed by then, such as the precision.
        """
        # Cleared in place: a program that is traced again later looks into this same dict, not into a new one.
        self._traced.clear()
        self._traced.update({(spec, split): step for split, step in steps.items()})

    def steps(
        self,
        spec: StepSpec,
        layout: WireLayout,
        split: Split,
        chunk: ChunkSpec,
        *,
        placement: Placement,
        prepare: Prepare | None = None,
        donates: bool = True,
    ) -> Program:
        """`program(wire, batches, resident) -> (wire, rows)`: the steps of a chunk over the wire.

        On several processes `resident` is a pair: the samples, and what this process asks for, see `asking.argument`.

        For one step, `batches` is one batch, packed or not, and `rows` is int32[row]. For several, both have a leading
        axis of steps. The arguments may lie on the host.

        Args:
          spec: what the steps are made of.
          layout: of the wire.
          split: that the loop is in.
          chunk: what the batches are like.
          placement: where it runs.
          prepare: makes the batch from what travels and the `resident` samples; None if batches travel as they are.
          donates: whether it may overwrite the wire that it is given.
        """
        key = ("steps", spec, layout, split, chunk.signature, placement, prepare, donates)
        return self.get(key, lambda: self._steps(spec, layout, split, chunk, placement, prepare, donates))

    def preparing(self, prepare: Prepare) -> Program:
        """`program(resident, batch) -> batch`: the start of the step's program as a program by itself."""
        return self.get(("prepare", prepare), lambda: Program("prepare", prepare))

    def event(self, spec: StepSpec, layout: WireLayout, event: Event, placement: Placement) -> Callable[[Loop], Loop]:
        """What the compiled callbacks do at a phase event; only what they change goes through the program."""
        key = ("event", spec, layout, event, placement)
        return self.get(key, lambda: _event(spec, layout, event, placement))

    def stages(
        self, spec: StepSpec, phase: Phase, cuts: frozenset[Event], placement: Placement
    ) -> list[tuple[Program, Event | None]]:
        """The step in one phase jitted apart after the events of `cuts`, each program with its event."""
        return self.get(("stages", spec, phase, cuts, placement), lambda: _stages(spec, phase, cuts, placement))

    def _steps(
        self,
        spec: StepSpec,
        layout: WireLayout,
        split: Split,
        chunk: ChunkSpec,
        placement: Placement,
        prepare: Prepare | None,
        donates: bool,
    ) -> Program:
        # A CPU runs convolutions inside a loop slowly, unless their axes are in one order.
        form = canonical if placement.is_cpu else _as_it_is
        count, packing, known = chunk.steps, chunk.packing, self._traced

        def one(wire: Wire, batch: Any, resident: Any) -> tuple[Wire, Any]:
            resident, asked = resident if placement.several_processes else (resident, None)
            batch = batch if packing is None else packing.unpack(batch)
            if prepare is not None:
                batch = form(prepare)(resident, batch)
                batch = divided(placement, batch, rows_of(batch))
            before = layout.unpack(wire)
            traced = None if looks_into_values() else known.get((spec, split))
            if traced is not None and traced.takes(before, batch):
                after, counted = (traced.canonical if placement.is_cpu else traced)(before, batch)
            else:
                after, counted = form(functools.partial(step, spec))(before, batch)
            counted = counted if asked is None else counted_and_asked(counted, asked)
            wire = layout.pack(after, counted, wire[0], before, in_place=count > 1)
            return wire, wire[0][: layout.row]

        def many(wire: Wire, batches: Any, resident: Any) -> tuple[Wire, Any]:
            return run_steps(lambda wire, batch: one(wire, batch, resident), wire, batches, count)

        name = step_name(split) + (f" x{count}" if count > 1 else "")
        options: dict[str, Any] = {"donate_argnums": 0} if donates else {}
        # Both sides are pinned: otherwise the wire, NumPy's at a phase's start and the device's later, compiles twice.
        place, on_wire, batches = placement.sharding, placement.sharding, placement.sharding
        if not placement.single:
            on_wire = (place, layout.by_themselves(shardings_of(placement, layout.abstract)))
            batches = placement.batch_shardings(chunk.abstract, chunk.rows, stacked=count > 1)
        samples = (place, asking.sharding(placement)) if placement.several_processes else place
        options |= {"in_shardings": (on_wire, batches, samples), "out_shardings": (on_wire, place)}
        return Program(name, one if count == 1 else many, **options)


def _as_it_is(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


def _everywhere(placement: Placement) -> dict[str, Any]:
    """The option that keeps results on one device. On several the program itself says where each result lies."""
    return {"out_shardings": placement.sharding} if placement.single else {}


def _event(spec: StepSpec, layout: WireLayout, event: Event, placement: Placement) -> Callable[[Loop], Loop]:
    traced: list[Any] = []  # the result's structure, and where each leaf comes from; filled by tracing

    def changed(leaves: list[Any]) -> list[Any]:
        after = spec.fire(jax.tree.unflatten(layout.tree, leaves), event)
        result, tree = jax.tree.flatten(after)
        free = {id(leaf): index for index, leaf in enumerate(leaves)}
        places = [free.pop(id(leaf), None) for leaf in result]  # if it is used twice, the second becomes a new array
        traced[:] = [tree, places]
        pins = jax.tree.leaves(pinned(placement, after))
        return [leaf for leaf, place in zip(pins, places, strict=True) if place is None]

    program = Program(event.value, changed, **_everywhere(placement))

    def call(loop: Loop) -> Loop:
        leaves = jax.tree.leaves(loop)
        new = iter(program(leaves))
        tree, places = traced
        return jax.tree.unflatten(tree, [next(new) if place is None else leaves[place] for place in places])

    return call


def _stages(
    spec: StepSpec, phase: Phase, cuts: frozenset[Event], placement: Placement
) -> list[tuple[Program, Event | None]]:
    events = (Event.BATCH_START, phase.step_event, Event.BATCH_END, None)
    form = canonical if placement.is_cpu and spec.accumulate > 1 else _as_it_is  # microbatches are a loop
    programs, group = [], []
    for stage, event in zip(stages(phase), events, strict=True):
        group.append(stage)
        if event is None or event in cuts:
            name = f"{phase.value}_step to {event.value if event else 'its end'}"
            run = form(_composed(spec, tuple(group), placement))
            programs.append((Program(name, run, **_everywhere(placement)), event))
            group.clear()
    return programs


def _composed(spec: StepSpec, group: tuple[Callable[..., Any], ...], placement: Placement) -> Callable[..., Any]:
    def run(loop: Loop, counted: Any) -> tuple[Loop, Any]:
        for stage in group:
            loop, counted = stage(spec, loop, counted, None)
        return pinned(placement, loop), counted

    return run
