"""What compiling ahead tells of a training loop's programs: seconds, FLOPs, bytes, memory and HLO."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from jaxloop.engine.phase_steps import PhaseSteps
from jaxloop.engine.run import Run
from jaxloop.events import Phase
from jaxloop.loop import Loop


@dataclass(frozen=True)
class CompiledStep:
    """The program of one phase's steps.

    Attributes:
      name: of the program, as in profiles.
      steps: how many steps one dispatch takes.
      why: why so many.
      compile_seconds: tracing and compiling.
      flops: floating-point operations of one step, before XLA fuses and leaves out any.
      bytes_accessed: bytes that one step reads and writes, as XLA counts them in the optimized program, where
        the body of a loop counts once; NaN if XLA does not tell.
      memory: bytes by what they hold while the program runs: `"arguments"`, `"outputs"`, `"aliased"` (outputs in the
        place of arguments), `"temporaries"`, `"code"`; empty if the backend does not tell.
      hlo: the optimized program as text.
    """

    name: str
    steps: int
    why: str
    compile_seconds: float
    flops: float
    bytes_accessed: float
    memory: dict[str, int]
    hlo: str = field(repr=False)

    @property
    def arithmetic_intensity(self) -> float:
        """FLOPs per byte."""
        return self.flops / self.bytes_accessed if self.bytes_accessed else float("nan")

    def __str__(self) -> str:
        memory = ", ".join(f"{name} {size / 1e6:.3g} MB" for name, size in self.memory.items()) or "not told"
        return "\n".join(
            [
                f"{self.name}: compiled in {self.compile_seconds:.2f} s; {self.steps} steps a dispatch ({self.why})",
                f"  a step: {self.flops:.4g} FLOPs, {self.bytes_accessed:.4g} bytes, "
                f"{self.arithmetic_intensity:.3g} FLOPs per byte",
                f"  memory: {memory}",
            ]
        )


@dataclass(frozen=True)
class Compiled:
    """What `TrainingLoop.compile` has compiled. A fit of the same model and data does not compile it again.

    Attributes:
      training: the program of the training steps.
      validation: the program of the validation steps; None if there is no validation.
    """

    training: CompiledStep
    validation: CompiledStep | None

    def __str__(self) -> str:
        return "\n".join(str(step) for step in (self.training, self.validation) if step is not None)


def compiled(run: Run) -> Compiled:
    """Compiles the step of each phase, as a fit of the run's session would do at its first."""
    found = {phase: _compiled_step(loop, steps) for phase, loop, steps in run.walk()}
    return Compiled(found[Phase.TRAINING], found.get(Phase.VALIDATION))


def _compiled_step(loop: Loop, steps: PhaseSteps) -> CompiledStep:
    wire = steps.layout.to_wire(loop)
    fusing = steps.fusing(wire)
    chunk = steps.feed.expected(fusing.steps)
    flops = steps.flops(wire, chunk)
    program = steps.program(chunk)
    if program.compiled is None:
        program.compile(wire, chunk.abstract, steps.given)
    assert program.compiled is not None
    counts = program.compiled.cost_analysis() or {}
    return CompiledStep(
        name=program.name,
        steps=fusing.steps,
        why=fusing.why,
        compile_seconds=program.compile_seconds or 0.0,
        flops=flops,
        bytes_accessed=counts.get("bytes accessed", float("nan")),
        memory=dict(_memory(program.compiled)),
        hlo=program.compiled.as_text(),
    )


def _memory(compiled: Any) -> Iterator[tuple[str, int]]:
    analysis = compiled.memory_analysis()
    names = {"arguments": "argument", "outputs": "output", "aliased": "alias", "temporaries": "temp"}
    names["code"] = "generated_code"
    for name, source in names.items():
        size = getattr(analysis, f"{source}_size_in_bytes", None)
        if size is not None:
            yield name, int(size)
