"""What compiling ahead tells of a training loop's programs: seconds, FLOPs, bytes, memory and HLO."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from jaxloop.engine.phase_steps import Entered, PhaseSteps
from jaxloop.events import TRAINING
from jaxloop.loop import Loop
from jaxloop.programs.collectives import Collective, collectives_of
from jaxloop.programs.cost import Estimate, bytes_on_one_device, estimate


@dataclass(frozen=True)
class CompiledStep:
    """The program of one phase's steps.

    Attributes:
      name: of the program, as in profiles.
      steps: how many steps one dispatch takes.
      why: why so many.
      compile_seconds: tracing and compiling.
      flops: floating-point operations of one step on all devices, before XLA fuses and leaves out any.
      bytes_accessed: bytes that one step reads and writes on one device, as XLA counts them in the optimized program,
        where the body of a loop counts once; NaN if XLA does not tell.
      memory: bytes by what they hold while the program runs: `"arguments"`, `"outputs"`, `"aliased"` (outputs in the
        place of arguments), `"temporaries"`, `"code"`; empty if the backend does not tell.
      hlo: the optimized program as text.
      device_kind: of the devices that it was compiled for, as `jax.devices()[0].device_kind`.
      arguments: bytes on one device of what the program is given, by what it is: `"parameters"`, `"optimizer"`,
        `"other state"`, `"batch"`, `"resident samples"`. What a TPU's layout adds to them is not counted.
      seconds: XLA's own estimate of the time of one step; None if it makes none. The backends of TPUs do.
      collectives: what the devices send each other in one step.
      parts: into how many parts the devices divide a batch.
    """

    name: str
    steps: int
    why: str
    compile_seconds: float
    flops: float
    bytes_accessed: float
    memory: dict[str, int]
    hlo: str = field(repr=False)
    device_kind: str = ""
    arguments: dict[str, int] = field(default_factory=dict)
    seconds: float | None = None
    collectives: tuple[Collective, ...] = ()
    parts: int = 1

    @property
    def peak(self) -> int | None:
        """The most bytes that one device needs at once; None if the backend does not tell."""
        return self._of_one_device.peak

    @property
    def fits(self) -> bool | None:
        """Whether a device has so much memory; None if that is not known, as for a CPU."""
        return self._of_one_device.fits

    @property
    def _of_one_device(self) -> Estimate:
        return Estimate(self.device_kind, self.memory)

    @property
    def arithmetic_intensity(self) -> float:
        """FLOPs per byte of one device, which has the share of a step that it has of the batch."""
        return self.flops / self.parts / self.bytes_accessed if self.bytes_accessed else float("nan")

    def __str__(self) -> str:
        where, each = ("", "") if self.parts == 1 else (" on all devices", " on each")
        lines = [
            f"{self.name}: compiled in {self.compile_seconds:.2f} s; {self.steps} steps a dispatch ({self.why})",
            f"  a step: {self.flops:.4g} FLOPs{where}, {self.bytes_accessed:.4g} bytes{each}, "
            f"{self.arithmetic_intensity:.3g} FLOPs per byte",
            *self._memory_lines(),
            *(f"  a step sends: {collective}" for collective in self.collectives),
        ]
        if self.seconds is not None:
            lines.append(f"  XLA's estimate: {self.seconds:.3g} s a step")
        return "\n".join(lines)

    def _memory_lines(self) -> Iterator[str]:
        """A table of what a device holds; its rows add up to the peak."""
        if self.peak is None:
            yield "  memory: not told"
            return
        capacity, fits = self._of_one_device.capacity, self.fits
        where = f" of {capacity / 1e6:.4g} MB: it {'fits' if fits else 'does NOT fit'}" if capacity else ""
        yield f"  memory of one device ({self.device_kind}): {self.peak / 1e6:.4g} MB{where}"
        taken = self.memory.get("arguments", 0)
        rows = self.arguments | {"padding": max(0, taken - sum(self.arguments.values()))}
        rows["outputs"] = self.memory.get("outputs", 0) - self.memory.get("aliased", 0)
        rows |= {name: self.memory.get(name, 0) for name in ("temporaries", "code")}
        for name, size in rows.items():
            if size:
                yield f"    {name:16} {size / 1e6:10.4g} MB"


@dataclass(frozen=True)
class Compiled:
    """What `TrainingLoop.compile` has compiled. A fit of the same model and data does not compile it again.

    Attributes:
      training: the program of the training steps.
      validation: the program of the validation steps; None if there is no validation. If that has several named sets,
        the program of the first.
      validation_sets: the program for each set, by its name.
    """

    training: CompiledStep
    validation: CompiledStep | None
    validation_sets: Mapping[str, CompiledStep] = field(default_factory=dict)

    def __str__(self) -> str:
        return "\n".join(str(step) for step in (self.training, *self.validation_sets.values()))


def compiled(phases: Iterable[Entered]) -> Compiled:
    """Compiles the step of each phase, as a fit would do at its first."""
    found = {entered.split.name: compiled_step(entered) for entered in phases}
    training = found.pop(TRAINING.name)
    return Compiled(training, next(iter(found.values()), None), found)


def compiled_step(entered: Entered) -> CompiledStep:
    """Compiles the step of a phase, unless it was compiled already."""
    steps, wire = entered.steps, entered.wire
    fusing = steps.fusing(wire)
    chunk = steps.feed.expected(fusing.steps)
    flops = steps.flops(wire, chunk)
    try:
        program = steps.compiled(chunk, wire, chunk.abstract, lambda program, what: None)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" in str(error):
            where = steps.session.placement.describe()
            name = steps.program(chunk).name
            error.add_note(f"jaxloop: {name} does not fit {where}; jaxloop.largest_batch finds what does")
        raise
    assert program.compiled is not None
    found = estimate(program.compiled)
    hlo = program.compiled.as_text()
    return CompiledStep(
        name=program.name,
        steps=fusing.steps,
        why=fusing.why,
        compile_seconds=program.compile_seconds or 0.0,
        flops=flops,
        bytes_accessed=found.bytes_accessed,
        memory=found.memory,
        hlo=hlo,
        device_kind=found.device_kind,
        arguments=_arguments(entered.loop, steps, chunk.abstract, program.compiled),
        seconds=found.seconds,
        collectives=collectives_of(hlo, fusing.steps),
        parts=steps.session.placement.parts,
    )


def _arguments(loop: Loop, steps: PhaseSteps, batch: Any, compiled: Any) -> dict[str, int]:
    """The bytes of the program's arguments on one device, by what they are."""
    (vector, others), of_batch, of_given = compiled.input_shardings[0]
    of_samples = of_given[0] if steps.session.placement.several_processes else of_given
    paths = jax.tree_util.tree_leaves_with_path(loop)
    leaves = [pair for slot, pair in zip(steps.layout.slots, paths, strict=True) if slot is None]
    scalars = bytes_on_one_device(jax.ShapeDtypeStruct((steps.layout.size,), np.int32), vector)
    held = {"parameters": 0, "optimizer": 0, "other state": scalars}
    for (path, leaf), place in zip(leaves, others, strict=True):
        held[_holder(path)] += bytes_on_one_device(leaf, place)
    given = {"batch": batch, "resident samples": steps.feed.resident}
    sizes = [
        bytes_on_one_device(tree, place) for tree, place in zip(given.values(), (of_batch, of_samples), strict=True)
    ]
    return held | dict(zip(given, sizes, strict=True))


def _holder(path: Any) -> str:
    """What a leaf of the loop belongs to."""
    names = [getattr(entry, "name", "") for entry in path[:2]]
    if names == ["model", "params"]:
        return "parameters"
    return "optimizer" if names[0] == "opt_state" else "other state"
