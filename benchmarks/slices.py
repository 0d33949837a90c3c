"""The command that compiles trainings for machines that are not there: what each chip would hold and send."""

import argparse
import datetime
import functools
import importlib.metadata
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from flax import nnx

import jaxloop as jl
from examples.models.bert import BASE, BertClassifier
from examples.models.gpt2 import CONFIGURATIONS, GPT2
from examples.models.resnet import ResNet
from jaxloop.chips import memory_of
from jaxloop.engine.ahead import look_ahead
from jaxloop.engine.compiled import compiled_step

MACHINES = ("v5e:2x2", "v5e:16x16", "v6e:4x4", "v5p:2x2x2", "h100")
PLACEMENTS = {"data parallel": jl.data_parallel, "fully sharded": jl.fully_sharded}
COLUMNS = (
    *("machine", "chips", "model", "placement", "batch", "parameters", "optimizer", "other state", "temporaries"),
    *("peak", "fits", "collectives of a step", "FLOPs", "XLA's estimate", "compile s"),
)


class Subject(NamedTuple):
    """What is trained.

    Attributes:
      model: makes the model.
      loss_fn: of the training loop.
      shapes: of one input and one target.
      dtype: of the input.
      optimizer: with a learning rate and a weight decay that callbacks change.
      batch: examples on each chip.
    """

    model: Callable[[], Any]
    loss_fn: Any
    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    dtype: Any
    optimizer: Callable[..., optax.GradientTransformation]
    batch: int


def _momentum(learning_rate: float, weight_decay: float) -> optax.GradientTransformation:
    return optax.chain(optax.add_decayed_weights(weight_decay), optax.sgd(learning_rate, momentum=0.9))


SUBJECTS = {
    "ResNet-20": Subject(
        lambda: ResNet(20, rngs=nnx.Rngs(0)),
        jl.losses.softmax_cross_entropy,
        ((32, 32, 3), ()),
        np.float32,
        _momentum,
        128,
    ),
    "BERT base": Subject(
        lambda: BertClassifier(BASE, rngs=nnx.Rngs(0)),
        jl.losses.sigmoid_cross_entropy,
        ((128,), ()),
        np.int32,
        optax.adamw,
        32,
    ),
    "GPT-2 small": Subject(
        lambda: GPT2(CONFIGURATIONS["small"], rngs=nnx.Rngs(0)),
        jl.losses.softmax_cross_entropy,
        ((1024,), (1024,)),
        np.int32,
        optax.adamw,
        4,
    ),
}


@dataclass(frozen=True)
class Row:
    """What a training step takes on a machine. Bytes and FLOPs are those of one chip.

    Attributes:
      machine, model, placement: by name.
      chips: how many.
      kind: of the chip.
      batch: examples on all chips.
      steps: in a dispatch.
      memory: bytes by what they hold.
      peak: the most bytes at once; None if the compiler has found no way to make it fit.
      fits: whether the chip has so many; None if that is not known.
      collectives: of one step, in words.
      flops: of one step.
      seconds: XLA's own estimate of a step.
      compile_seconds: tracing and compiling.
      why: what the compiler said if it gave up.
    """

    machine: str
    model: str
    placement: str
    chips: int
    kind: str
    batch: int
    steps: int
    memory: dict[str, int]
    peak: int | None = None
    fits: bool | None = None
    collectives: list[str] | None = None
    flops: float | None = None
    seconds: float | None = None
    compile_seconds: float = 0.0
    why: str = ""


def main(arguments: Sequence[str] | None = None) -> list[Row]:
    """Runs the command with these arguments (by default those of the process), and returns the rows of its table."""
    options = _parser().parse_args(arguments)
    rows = [] if options.json is None or not options.json.exists() else _read(options.json)
    for machine in options.machines:
        for model in options.model or SUBJECTS:
            for placement in options.placement or PLACEMENTS:
                if placement != "data parallel" and jl.topology(machine).single:
                    continue
                print(f"{machine}, {model}, {placement} ...", file=sys.stderr, flush=True)
                name = f"{machine} {model} {placement}.hlo".replace(" ", "_").replace(":", "_")
                hlo = None if options.hlo is None else options.hlo / name
                row = compiled(machine, model, placement, steps=options.steps, hlo=hlo)
                key = (row.machine, row.model, row.placement)
                rows = [each for each in rows if (each.machine, each.model, each.placement) != key] + [row]
                if options.json is not None:
                    options.json.write_text(json.dumps([asdict(each) for each in rows], indent=1) + "\n")
    print(report(rows))
    return rows


def compiled(machine: str, model: str, placement: str, *, steps: int = 4, hlo: Path | None = None) -> Row:
    """Compiles the training of a model for a machine. Nothing runs. `hlo` is a file for the optimized program."""
    subject, whole = SUBJECTS[model], jl.topology(machine)
    place = PLACEMENTS[placement](whole.mesh.devices.flat)
    chips = place.mesh.size
    batch = subject.batch * chips
    make = functools.partial(Row, machine, model, placement, chips, place.device.device_kind, batch, steps)
    try:
        _, phases = look_ahead(training_loop(subject, batch, steps).setup, subject.model, 10, place)
        step = compiled_step(next(phases))  # as `compile` does, without validation
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return make({}, fits=False, why=str(error).splitlines()[0])
    if hlo is not None:
        hlo.write_text(step.hlo, encoding="utf-8")
    kept = step.memory["outputs"] - step.memory["aliased"]
    return make(
        step.arguments | {"new outputs": kept, "temporaries": step.memory["temporaries"]},
        peak=step.peak,
        fits=step.fits,
        collectives=[str(collective) for collective in step.collectives],
        flops=step.flops / chips,
        seconds=step.seconds,
        compile_seconds=step.compile_seconds,
    )


def training_loop(subject: Subject, batch: int, steps: int) -> jl.TrainingLoop:
    """The training loop of a subject, with every compiled callback: a schedule for the rate, patience for the decay."""

    def samples(batches: int) -> tuple[np.ndarray, np.ndarray]:  # they take no memory
        shapes = [(batches * batch, *shape) for shape in subject.shapes]
        dtypes = subject.dtype, np.int32
        input, target = (
            np.broadcast_to(np.zeros((), dtype), shape) for dtype, shape in zip(dtypes, shapes, strict=True)
        )
        return input, target

    return jl.TrainingLoop(
        jl.TrainingEpochs(samples(8 * steps), batch),
        jl.in_batches(samples(2), batch),
        optimizer=optax.inject_hyperparams(subject.optimizer)(learning_rate=0.0, weight_decay=0.1),
        loss_fn=subject.loss_fn,
        metrics=["accuracy"],
        callbacks=[
            jl.callbacks.learning_rate_scheduler(jl.make_schedule(jl.warmup_cosine(1e-3, 20))),
            jl.callbacks.reduce_on_plateau(hyperparameter="weight_decay"),
            jl.callbacks.clip_by_global_norm(1.0),
            jl.callbacks.ema(0.999, evaluate=True),
            jl.callbacks.early_stopping(restore_best=True),
            jl.callbacks.stop_on_non_finite(),
        ],
        progress=False,
        steps_per_dispatch=steps,
    )


def report(rows: Sequence[Row]) -> str:
    """The table, and what it was made with, as Markdown."""
    packages = ("jax", "jaxlib", "libtpu", "jax-cuda12-plugin", "flax", "optax")
    versions = ", ".join(f"{name} {found}" for name in packages if (found := _version(name)))
    cells = [list(_cells(row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(COLUMNS, *cells, strict=True)]
    lines = [COLUMNS, ["-" * width for width in widths], *cells]
    table = ("| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in lines)
    return "\n".join([f"{datetime.date.today()}; {versions}", "", *table])


def _cells(row: Row) -> Iterator[str]:
    yield from (row.machine, str(row.chips), row.model, row.placement, f"{row.batch}, {row.steps} steps at once")
    for name in ("parameters", "optimizer", "other state", "temporaries"):
        yield _megabytes(row.memory.get(name))
    yield _megabytes(row.peak)
    capacity = memory_of(row.kind)
    yield {True: "yes", False: "NO", None: "?"}[row.fits] + (f", of {capacity / 2**30:.0f} GiB" if capacity else "")
    yield row.why or "; ".join(row.collectives or []) or "none"
    yield "" if row.flops is None else f"{row.flops:.3g}"
    yield "not told" if row.seconds is None else f"{1e3 * row.seconds:.3g} ms"
    yield f"{row.compile_seconds:.0f}"


def _megabytes(size: int | None) -> str:
    return "" if size is None else f"{size / 1e6:.4g} MB"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _read(path: Path) -> list[Row]:
    return [Row(**fields) for fields in json.loads(path.read_text())]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.slices", description=__doc__)
    parser.add_argument("machines", nargs="*", default=MACHINES, help=f"by default {' '.join(MACHINES)}")
    parser.add_argument("--model", action="append", choices=SUBJECTS, help="only this one; may be repeated")
    parser.add_argument("--placement", action="append", choices=PLACEMENTS, help="only this one; may be repeated")
    parser.add_argument("--steps", type=int, default=4, help="training steps in a dispatch (4)")
    parser.add_argument("--json", type=Path, help="a file that rows are added to; the table then shows all of it")
    parser.add_argument("--hlo", type=Path, help="a folder for the optimized programs")
    return parser


if __name__ == "__main__":
    main()
