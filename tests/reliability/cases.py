"""Runs of many kinds, each a value that a child is told by JSON: what the oracle resumes everywhere."""

import dataclasses
import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxloop as jl
from jaxloop import callbacks
from tests.reliability import models
from tests.reliability.training import CALLBACKS, Trace, cut

_BATCH = 8
Who = Literal["compiled", "observer", "event"]


@dataclass(frozen=True)
class Cancel:
    """Something that is cancelled once.

    Attributes:
      who: a compiled callback, an observer of rows, or a host callback at an event between steps.
      scope: the name of what is cancelled.
      event: at which; an observer's is always BATCH_END.
      phase: in which, for an event of steps.
      epoch: counted from 1, over the loop's life.
      batch: counted from 0.
    """

    who: Who
    scope: str
    event: str = "BATCH_END"
    phase: str = "training"
    epoch: int = 2
    batch: int = 1


@dataclass(frozen=True)
class Case:
    """What a run has.

    Attributes:
      steps: per dispatch.
      apart: whether the stages of all steps are apart.
      callbacks: names, see `_compiled` and `_on_host`.
      data: where training batches come from, see `training`.
      model: its kind, see `models`.
      optimizer: its kind, see `_OPTIMIZERS`.
      epochs: how many there are.
      batches: of training in an epoch.
      validation: how many batches; the last is a short one. 0: there is no validation.
      report: as `TrainingLoop` has it.
      limit: of batches in each phase.
      cancels: what is cancelled.
      before: epochs of an earlier fit, on whose loop this one goes on.
      patient: whether rows wait for each other as long as they can, whatever the clock says.
      x64: whether JAX has numbers of 64 bits.
      budget: so many training steps in place of epochs.
      sets: whether validation has two named sets, the second a plain list.
      at_start: whether it validates before the first epoch.
    """

    steps: int | Literal["auto"] = 1
    apart: bool = False
    callbacks: tuple[str, ...] = CALLBACKS
    data: str = "epochs"
    model: str = "nnx"
    optimizer: str = "adamw"
    epochs: int = 3
    batches: int = 7
    validation: int = 3
    report: Literal["batch", "epoch"] = "batch"
    limit: int | None = None
    cancels: tuple[Cancel, ...] = ()
    before: int = 0
    patient: bool = False
    x64: bool = False
    budget: int | None = None
    sets: bool = False
    at_start: bool = False

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @staticmethod
    def of(text: str) -> "Case":
        """The case of which `text` is the JSON."""
        given = json.loads(text)
        cancels = tuple(Cancel(**cancel) for cancel in given["cancels"])
        return Case(**given | {"callbacks": tuple(given["callbacks"]), "cancels": cancels})


class Fits:
    """Fits of one case. They share programs; data and host callbacks are made for each, as in a process of its own."""

    def __init__(self, case: Case):
        self._case = case
        self._training_loop = jl.TrainingLoop(
            training=training(case),
            validation=_validation(case),
            optimizer=_OPTIMIZERS[case.optimizer](),
            metrics=[] if case.data == "steps" else ["accuracy"],
            callbacks=[_COMPILED[name]() for name in case.callbacks if name in _COMPILED] + _cancelling(case),
            steps_per_dispatch=case.steps,
            report=case.report,
            progress=False,
            validate_at_start=case.at_start,
            **models.objective(case.model),
        )

    def fit(self, folder: Path, *, saves: bool = False, resume: bool = False) -> tuple[jl.Loop, jl.History]:
        """Runs it in a folder, which holds its logs, and its checkpoints in `checkpoints`."""
        case, checkpoints = self._case, folder / "checkpoints"
        folder.mkdir(parents=True, exist_ok=True)
        setup = dataclasses.replace(self._training_loop.setup, training=training(case), validation=_validation(case))
        training_loop = jl.TrainingLoop.of(setup)
        with (folder / "bar.txt").open("a", encoding="utf-8") as bar:
            listed = [_ON_HOST[name](folder, bar) for name in case.callbacks if name in _ON_HOST]
            listed += [cut] if case.apart else []
            listed += _cancelling_on_host(case)
            listed.append(Trace(folder / "trace.txt"))
            if saves:
                listed.append(callbacks.Checkpoint(checkpoints, keep=1))
            return training_loop.fit(
                self._given,
                case.epochs if case.budget is None else None,
                steps=case.budget,
                callbacks=listed,
                seed=1,
                limit_batches=case.limit,
                resume_from=checkpoints if resume else None,
            )

    @functools.cached_property
    def _given(self) -> Any:
        """The model, or the loop of an earlier fit."""
        model = models.MODELS[self._case.model]()
        if not self._case.before:
            return model
        return self._training_loop.fit(model, self._case.before, seed=1, limit_batches=self._case.limit)[0]


_COMPILED: dict[str, Callable[[], Any]] = {
    "clip": lambda: callbacks.clip_by_global_norm(0.5),
    "schedule": lambda: callbacks.learning_rate_scheduler(
        jl.make_schedule(
            [
                jl.ScheduleSegment(jl.shapes.linear, start_rate=0.01, end_rate=0.1, step_count=5),
                jl.ScheduleSegment(jl.shapes.cosine, end_rate=0.0),
            ]
        )
    ),
    "ema": lambda: callbacks.ema(0.9, evaluate=True),
    "early_stopping": lambda: callbacks.early_stopping(patience=100, restore_best=True),
    "stops_early": lambda: callbacks.early_stopping(patience=1, min_delta=100.0, restore_best=True),
    "plateau": lambda: callbacks.reduce_on_plateau(patience=1, min_delta=100.0, hyperparameter="weight_decay"),
    "non_finite": lambda: callbacks.stop_on_non_finite(),
    "skips_non_finite": lambda: callbacks.stop_on_non_finite(skip=True),
    "counts": lambda: counts,
    "late": lambda: late,
    "bound": lambda: Bound(),
}

_ON_HOST: dict[str, Callable[[Path, Any], Any]] = {
    "csv": lambda folder, bar: callbacks.CSVLogger(folder / "log.csv"),
    "other_csv": lambda folder, bar: callbacks.CSVLogger(folder / "other.csv"),
    "tensorboard": lambda folder, bar: callbacks.TensorBoardLogger(folder / "tensorboard"),
    "bar": lambda folder, bar: callbacks.ProgressBar(bar),
    "images": lambda folder, bar: callbacks.ImageSaver(folder / "images", (1, models.FEATURES)),
    "profiler": lambda folder, bar: callbacks.Profiler(folder / "profile", steps=(2, 4)),
    "changes": lambda folder, bar: changes,
}


def counts(loop: jl.Loop, event: jl.Event) -> jl.Loop:
    """Counts steps over the loop's life, and records an integer and a float that is often not measured."""
    loop = loop.remember("counted", {"steps": np.int32(0), "large": np.zeros(3, np.float32)}, lasting=True)
    if event is jl.Event.BATCH_END and loop.phase is jl.Phase.TRAINING:
        memory = loop.callback_state["counted"]
        memory = {"steps": memory["steps"] + 1, "large": memory["large"] + loop.stats["loss"]}
        loop = loop.replace(callback_state=loop.callback_state | {"counted": memory})
        loop = loop.record("steps_taken", memory["steps"])
        loop = loop.record("odd", jnp.where(memory["steps"] % 2 == 1, loop.stats["loss"], jnp.nan))
    return loop


def late(loop: jl.Loop, event: jl.Event) -> jl.Loop:
    """Remembers something only from the end of the first training on."""
    if event is jl.Event.TRAINING_END:
        loop = loop.remember("late", np.zeros(2, np.float32))
        memory = loop.callback_state["late"] + loop.stats["loss"]
        loop = loop.replace(callback_state=loop.callback_state | {"late": memory})
    return loop


class Bound:
    """A compiled callback that is bound to the plan, and adds the part of the fit that is over to the gradient."""

    def bind(self, plan: jl.Plan) -> Any:
        def callback(loop: jl.Loop, event: jl.Event) -> jl.Loop:
            if event is not jl.Event.UPDATE_START:
                return loop
            part = (loop.step - loop.first_step) / plan.total_steps
            return loop.replace(gradient=jax.tree.map(lambda leaf: leaf + part.astype(leaf.dtype), loop.gradient))

        return callback


@jl.on_host(jl.Event.VALIDATION_START, jl.Event.EPOCH_START, reads="loop")
def changes(loop: jl.Loop, event: jl.Event) -> jl.Loop:
    """Changes the loop on the host, and remembers what no compiled callback knows of."""
    loop = loop.remember("changed", {"times": np.int32(0)})
    memory = {"times": loop.callback_state["changed"]["times"] + 1}
    params = jax.tree.map(lambda leaf: leaf * 0.99, loop.model.params)
    model = loop.model.replace(params=params)
    return loop.replace(model=model, callback_state=loop.callback_state | {"changed": memory})


def _cancelling(case: Case) -> list[Any]:
    return [_compiled_cancel(cancel) for cancel in case.cancels if cancel.who == "compiled"]


def _compiled_cancel(cancel: Cancel) -> Any:
    def callback(loop: jl.Loop, event: jl.Event) -> jl.Loop:
        if event is not jl.Event[cancel.event] or (event.in_step and loop.phase is not jl.Phase(cancel.phase)):
            return loop
        here = (loop.epoch == cancel.epoch) & ((loop.batch_index == cancel.batch) | (not event.in_step))
        return loop.cancel(jl.Scope[cancel.scope], when=here)

    return callback


def _cancelling_on_host(case: Case) -> list[Any]:
    return [_host_cancel(cancel) for cancel in case.cancels if cancel.who != "compiled"]


def _host_cancel(cancel: Cancel) -> Any:
    observes = cancel.who == "observer"

    @jl.on_host(jl.Event.BATCH_END if observes else jl.Event[cancel.event])
    def callback(loop: Any, event: jl.Event) -> None:
        in_phase = not observes or loop.phase is jl.Phase(cancel.phase)
        if in_phase and loop.epoch == cancel.epoch and (not observes or loop.batch_index == cancel.batch):
            loop.cancel(jl.Scope[cancel.scope])

    return callback


def training(case: Case) -> Any:
    """The epochs of training, made again each time: no two of them are alike."""
    if case.data == "steps":
        return jl.steps(case.batches)
    inputs, targets = _samples(_BATCH * case.batches, seed=0)
    resident = case.data.startswith("resident")
    epochs: Any = jl.TrainingEpochs((inputs, targets), _BATCH, seed=3, resident=resident)
    if case.data in ("epochs", "resident"):
        return epochs
    if case.data == "every":
        return epochs.every(case.batches - 2)
    if case.data == "mapped":
        return epochs.map(lambda batch: (2 * batch[0], batch[1]))
    if case.data in ("compiled", "resident compiled"):
        return epochs.map(lambda batch: (batch[0] * batch[0], batch[1]), compiled=True)
    listed = [list(epochs[index]) for index in range(case.before + case.epochs)]
    if case.data == "list":
        return listed
    if case.data == "generator":
        return (epoch for epoch in listed)
    in_a_row = [batch for epoch in listed for batch in epoch]
    if case.data == "stream every":
        return jl.repeat(_Loader(in_a_row)).every(case.batches - 2)
    if case.data == "repeat":
        return jl.repeat(in_a_row[:-2], batch_count=case.batches)
    if case.data == "stream":
        return jl.repeat(iter(in_a_row), batch_count=case.batches)
    return _of_a_library(case, list(zip(inputs, targets, strict=True)))


class _Loader:
    """A loader that can be iterated again, and not indexed."""

    def __init__(self, batches: list[Any]):
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Any:
        return iter(self._batches)


def _of_a_library(case: Case, pairs: list[Any]) -> Any:
    if case.data.startswith("grain"):
        import grain

        batches: Any = grain.MapDataset.source(pairs).seed(3).shuffle().repeat().batch(_BATCH)
        if "iter" in case.data:
            batches = batches.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=2))
        return jl.repeat(batches, batch_count=case.batches)
    import torch  # type: ignore[import-not-found]

    generator = torch.Generator().manual_seed(3)
    return jl.repeat(torch.utils.data.DataLoader(pairs, _BATCH, shuffle=True, generator=generator))  # type: ignore[arg-type]


def _validation(case: Case) -> Any:
    if not case.validation:
        return None
    if case.data == "steps":
        return jl.steps(case.validation)
    samples = _samples(_BATCH * case.validation - 3, seed=1)
    batches = jl.in_batches(samples, _BATCH)
    if case.sets:
        return {"in_domain": batches, "out_of_domain": list(jl.in_batches(_samples(2 * _BATCH - 3, seed=2), _BATCH))}
    return list(batches) if case.data in ("list", "repeat") else batches


def _samples(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng([seed, 5])
    inputs = random.normal(size=(count, models.FEATURES)).astype(np.float32)
    noise = 0.3 * random.normal(size=inputs.shape)
    return inputs, (inputs + noise).argmax(axis=1).astype(
        np.int32
    )  # it can be learned: the first epoch is not the best


_OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "adamw": lambda: optax.inject_hyperparams(optax.adamw)(learning_rate=0.01, weight_decay=0.1),
    "multi_steps": lambda: optax.MultiSteps(optax.adam(0.05), 3).gradient_transformation(),
    "schedule_free": lambda: optax.contrib.schedule_free_adamw(0.05, warmup_steps=4),
    "scheduled": lambda: optax.chain(
        optax.add_noise(0.01, 0.55, key=jax.random.key(7)),
        optax.sgd(optax.cosine_decay_schedule(0.1, 20), momentum=0.9),
    ),
}


SMALL = Case(model="plain", epochs=2, batches=4, validation=2, callbacks=("csv",))


def small(**changes: Any) -> Case:
    """A run that costs little, with changes."""
    return dataclasses.replace(SMALL, **changes)
