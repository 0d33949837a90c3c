"""Runs of every kind, to be held over a mesh against one device."""

import csv
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, PartitionSpec

import jaxloop as jl
from tests.scale.models import CLASSES, FEATURES, mlp, normed, transformer

#: In a CSV file, what a clock or the machine says.
CLOCKS = ("time", "seconds", "per_second")


def _samples(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Points, and of the corners of a simplex the one that they are most like: a task that can be learned."""
    random = np.random.default_rng([seed, 3])
    points = random.normal(size=(count, FEATURES)).astype(np.float32)
    corners = np.random.default_rng(7).normal(size=(FEATURES, CLASSES))
    return points, (points @ corners).argmax(1).astype(np.int32)


def _texts(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens, and for each the class of the sum of it and of the one before it."""
    tokens = np.random.default_rng([seed, 4]).integers(0, CLASSES, (count, 6)).astype(np.int32)
    return tokens, (tokens + np.roll(tokens, 1, axis=1)) % CLASSES


TRAINING, VALIDATION = _samples(160, 0), _samples(37, 1)


def by_columns(path: str, leaf: Any) -> PartitionSpec:
    """Tensor parallelism: each matrix by its columns, and the biases of the hidden layers too."""
    if leaf.ndim == 0 or leaf.shape[-1] % 4:
        return PartitionSpec()
    return PartitionSpec(*[None] * (leaf.ndim - 1), "model")


def placements() -> dict[str, Any]:
    """Over all eight devices: data parallel, fully sharded, and tensor parallel on 2 x 4."""
    grid = Mesh(np.array(jax.devices()).reshape(2, 4), ("data", "model"))
    return {
        "data": jl.data_parallel(),
        "sharded": jl.fully_sharded(at_least=64),
        "tensor": jl.Placement(grid, by_columns),
    }


class Case(NamedTuple):
    """A run.

    Attributes:
      model: makes the model.
      changes: makes the arguments of the training loop that are not as in `training_loop`.
      tolerance: of losses, absolute.
      epochs: of ten steps each.
    """

    model: Callable[[], Any] = mlp
    changes: Callable[[], Mapping[str, Any]] = dict
    tolerance: float = 1e-5
    epochs: int = 2


def training_loop(**changes: Any) -> jl.TrainingLoop:
    """Ten training batches of 16, and four of validation, the last of 1."""
    arguments: dict[str, Any] = {
        "training": jl.TrainingEpochs(TRAINING, 16),
        "validation": jl.in_batches(VALIDATION, 12),
        "optimizer": optax.adamw(3e-3),
        "loss_fn": jl.losses.softmax_cross_entropy,
        "metrics": ["accuracy"],
        "progress": False,
        "steps_per_dispatch": 1,
    }
    return jl.TrainingLoop(**(arguments | changes))


class Run(NamedTuple):
    """What is compared of a run."""

    loop: jl.Loop
    history: jl.History
    rows: list[dict[str, str]]


def run(case: Case, on: Any, **changes: Any) -> Run:
    """The run of a case somewhere."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log.csv"
        arguments = dict(case.changes()) | changes
        callbacks = [*arguments.pop("callbacks", ()), jl.callbacks.CSVLogger(path)]
        loop = training_loop(**arguments, callbacks=callbacks)
        after, history = loop.fit(case.model(), case.epochs, on=on)
        with path.open() as file:
            return Run(after, history, list(csv.DictReader(file)))


def check_equal(one: Run, other: Run, tolerance: float, said: str = "") -> None:
    """Two runs are the same but for rounding: each number of each row, and the counters."""
    assert other.history.stopped == one.history.stopped, said
    assert len(other.rows) == len(one.rows), said
    for left, right in zip(one.rows, other.rows, strict=True):
        assert list(left) == list(right), said
        for name in left:
            if not any(clock in name for clock in CLOCKS):
                _check_cell(left[name], right[name], tolerance, f"{said}: {name} of {left}")
    for name in ("step", "epoch", "stop"):
        assert int(getattr(other.loop, name)) == int(getattr(one.loop, name)), f"{said}: {name}"
    for name in one.history.batches:
        if not any(clock in name for clock in CLOCKS):
            found, expected = (np.asarray(each.history.batches[name]) for each in (other, one))
            np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance, err_msg=f"{said}: {name}")


def _check_cell(one: str, other: str, tolerance: float, said: str) -> None:
    try:
        numbers = float(one), float(other)
    except ValueError:
        assert one == other, said
    else:
        np.testing.assert_allclose(numbers[1], numbers[0], rtol=tolerance, atol=tolerance, err_msg=said)


def check(case: Case, names: Any = ("data", "sharded", "tensor"), dispatches: Any = (1, 3), said: str = "") -> None:
    """A case over meshes is what it is on one device."""
    for steps in dispatches:
        expected = run(case, "cpu:0", steps_per_dispatch=steps)
        for name in names:
            found = run(case, placements()[name], steps_per_dispatch=steps)
            check_equal(expected, found, case.tolerance, f"{said} {name}, {steps} steps at once")


# --- what a run can be made of


def _texts_loop() -> dict[str, Any]:
    return {"training": jl.TrainingEpochs(_texts(160, 0), 16), "validation": jl.in_batches(_texts(37, 1), 12)}


def _injected(rate: float = 3e-3) -> optax.GradientTransformation:
    return optax.inject_hyperparams(optax.adamw)(learning_rate=rate)


def _recorder(loop: jl.Loop, event: jl.Event) -> jl.Loop:
    """Records what a batch looks like in the middle of a step."""
    if event is jl.Event.UPDATE_START:
        loop = loop.record("norm_before", optax.tree.norm(loop.gradient))
        loop = loop.record("largest", jnp.abs(loop.output).max())
        return loop.record("first_label", loop.target[0])
    if event is jl.Event.INFERENCE_PREDICTION_END:
        return loop.record("largest", jnp.abs(loop.output).max())
    return loop


def _callbacks() -> dict[str, Any]:
    callbacks = [
        jl.callbacks.learning_rate_scheduler(optax.cosine_decay_schedule(3e-3, 40)),
        jl.callbacks.clip_by_global_norm(1.0),
        jl.callbacks.ema(0.9, evaluate=True),
        _recorder,
        jl.callbacks.early_stopping(monitor="validation_loss", patience=3, restore_best=True),
    ]
    return {"optimizer": _injected(), "callbacks": callbacks}


def _plateau() -> dict[str, Any]:
    """A rate that is far too large, so that the loss rises and each decision is clear."""
    callbacks = [
        jl.callbacks.reduce_on_plateau(monitor="validation_loss", patience=1, factor=0.5, min_delta=0.5),
        jl.callbacks.early_stopping(monitor="validation_loss", patience=3, min_delta=0.5),
    ]
    return {"optimizer": _injected(3e-3), "callbacks": callbacks}


def _halved(batch: Any) -> Any:
    return batch[0] / 2, batch[1]


def _watcher(reads: Any, *events: jl.Event) -> Any:
    """A host callback that looks at what it may."""

    @jl.on_host(*events, reads=reads)
    def watch(loop: Any, event: jl.Event) -> None:
        if reads == "stats":
            dict(loop.stats)
        elif reads == "step" and event is jl.Event.UPDATE_START:
            assert loop.output.shape == (16, CLASSES)
            assert np.isfinite(np.asarray(loop.output)).all()

    return watch


@jl.on_host(jl.Event.BATCH_END, jl.Event.EPOCH_START, reads="loop")
def _shrinking(loop: jl.Loop, event: jl.Event) -> jl.Loop:
    """A host callback that changes the parameters."""
    return loop.replace(model=loop.model.replace(params=jax.tree.map(lambda leaf: leaf * 0.999, loop.model.params)))


@jl.on_host(jl.Event.BATCH_END, reads="stats")
def _canceller(loop: Any, event: jl.Event) -> None:
    """A host callback that ends the second epoch's training after its fourth batch."""
    if loop.phase is jl.Phase.TRAINING and loop.epoch_index == 1 and loop.batch_index == 3:
        loop.cancel(jl.Scope.TRAINING)


def _weighted() -> dict[str, Any]:
    """Weights of 0 to 2; what weighs nothing is NaN."""
    points, labels = (np.array(part) for part in TRAINING)
    weight = np.random.default_rng(5).integers(0, 3, len(labels)).astype(np.float32)
    points[weight == 0], labels[weight == 0] = np.nan, -100
    return {"training": jl.TrainingEpochs((points, labels, weight), 16)}


def _token_weighted() -> dict[str, Any]:
    def weighted(samples: Any, seed: int) -> Any:
        tokens, labels = (np.array(part) for part in samples)
        weight = np.random.default_rng(seed).integers(0, 3, tokens.shape).astype(np.float32)
        labels[weight == 0] = -100
        return tokens, labels, weight

    training, validation = weighted(_texts(160, 0), 5), weighted(_texts(37, 1), 6)
    return {"training": jl.TrainingEpochs(training, 16), "validation": jl.in_batches(validation, 12)}


def _own_step(model: Any, loop: jl.Loop) -> Any:
    """A step of the user's own, with noise, and two forward passes."""
    noise = 0.01 * jax.random.normal(loop.step_key("noise"), loop.input.shape)
    output, model = model.forward(loop.input + noise, loop.step_key("model"))
    again, _ = model.forward(loop.input, loop.step_key("again"))
    loss = jl.losses.softmax_cross_entropy(output, loop.target) + 0.1 * jnp.mean((output - again) ** 2, axis=-1)
    apart = jnp.abs(output - again).max(-1)
    apart = apart if loop.weight is None else jnp.where(loop.weight > 0, apart, 0)  # not that of examples that fill up
    return loss, loop.replace(output=output, model=model).record("apart", apart.max())


def _mean(output: Any, target: Any) -> Any:
    return jl.losses.softmax_cross_entropy(output, target).mean()


def _labels(params: Any) -> Any:
    return jax.tree_util.tree_map_with_path(lambda path, _: "last" if "last" in str(path) else "rest", params)


def _multi() -> optax.GradientTransformation:
    return optax.multi_transform({"last": optax.sgd(0.05), "rest": optax.adamw(3e-3)}, _labels)


CASES: dict[str, Case] = {
    "MLP": Case(epochs=10),
    "transformer": Case(transformer, _texts_loop, epochs=10),
    "batch norm and dropout": Case(normed),
    "schedule, clip, EMA, records, early stop": Case(changes=_callbacks, epochs=6),
    "plateau": Case(changes=_plateau, epochs=8),
    "resident": Case(changes=lambda: {"training": jl.TrainingEpochs(TRAINING, 16, resident=True)}),
    "compiled map": Case(changes=lambda: {"training": jl.TrainingEpochs(TRAINING, 16).map(_halved, compiled=True)}),
    "resident and compiled": Case(
        changes=lambda: {"training": jl.TrainingEpochs(TRAINING, 16, resident=True).map(_halved, compiled=True)}
    ),
    "host, stats": Case(changes=lambda: {"callbacks": [_watcher("stats", jl.Event.BATCH_END)]}),
    "host, step": Case(normed, lambda: {"callbacks": [_watcher("step", jl.Event.UPDATE_START, jl.Event.BATCH_END)]}),
    "host, loop": Case(normed, lambda: {"callbacks": [_watcher("loop", *jl.Event)]}),
    "host changes the loop": Case(changes=lambda: {"callbacks": [_shrinking]}),
    "host cancels": Case(changes=lambda: {"callbacks": [_canceller]}, epochs=3),
    "weights": Case(changes=_weighted),
    "weights and batch norm": Case(normed, _weighted),
    "weights of tokens": Case(transformer, _token_weighted),
    "accumulate": Case(changes=lambda: {"accumulate": 2}),
    "accumulate 4": Case(changes=lambda: {"accumulate": 4, "training": jl.TrainingEpochs(TRAINING, 32)}),
    "microbatches that do not divide": Case(changes=lambda: {"accumulate": 4}),
    "accumulate, batch norm, weights": Case(normed, lambda: _weighted() | {"accumulate": 2}),
    # A float of 8 bits of mantissa rounds to 4e-3, and sums of halves are rounded again on each device.
    "bfloat16": Case(normed, lambda: {"compute_dtype": jnp.bfloat16}, tolerance=3e-2),
    "differentiable step": Case(normed, lambda: {"loss_fn": None, "differentiable_step": _own_step}),
    "scalar loss": Case(changes=lambda: {"loss_fn": _mean}),
    "inject_hyperparams": Case(changes=lambda: {"optimizer": _injected()}),
    "MultiSteps": Case(changes=lambda: {"optimizer": optax.MultiSteps(optax.adamw(3e-3), 4)}),
    "adafactor": Case(changes=lambda: {"optimizer": optax.adafactor(3e-3, min_dim_size_to_factor=8)}),
    "multi_transform": Case(changes=lambda: {"optimizer": _multi()}),
    "schedule-free": Case(changes=lambda: {"optimizer": optax.contrib.schedule_free_adamw(3e-3)}),
    "report once an epoch": Case(changes=lambda: {"report": "epoch"}),
}
