"""Where a number is asked, one of NumPy's is as good as Python's."""

from typing import Any

import jax
import numpy as np
import optax
import pytest

import jaxloop as jl
from tests import small

TWO, SMALL = np.int64(2), np.float64(0.01)
MAKERS: dict[str, Any] = {
    "early_stopping": lambda two, small: jl.callbacks.early_stopping(patience=two, min_delta=small),
    "reduce_on_plateau": lambda two, small: jl.callbacks.reduce_on_plateau(
        factor=small, patience=two, cooldown=two, min_delta=small, min_rate=small
    ),
    "clip_by_global_norm": lambda two, small: jl.callbacks.clip_by_global_norm(small),
    "ema": lambda two, small: jl.callbacks.ema(small),
    "schedule": lambda two, small: jl.callbacks.learning_rate_scheduler(
        jl.make_schedule(
            [
                jl.ScheduleSegment(jl.shapes.linear, start_rate=small, end_rate=small, step_count=two),
                jl.ScheduleSegment(jl.shapes.polynomial(two), end_rate=small),
            ]
        )
    ),
    "one_cycle": lambda two, small: jl.callbacks.learning_rate_scheduler(jl.make_schedule(jl.one_cycle(small))),
    "warmup_cosine": lambda two, small: jl.callbacks.learning_rate_scheduler(
        jl.make_schedule(jl.warmup_cosine(small, two))
    ),
}


@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_callback_takes_them_and_does_the_same(make: Any, x64: bool) -> None:
    def traced(two: Any, small_number: Any) -> Any:
        callback = make(two, small_number)
        training_loop = small.training_loop(callbacks=[callback])
        start = training_loop.setup.fit(small.model(), 2)
        return start.loop, start.trace

    with jax.enable_x64(x64):
        (given, trace), (expected, same) = traced(TWO, SMALL), traced(2, 0.01)
    small.assert_trees_equal(given, expected)
    assert (trace.stats, trace.acts, trace.cancels) == (same.stats, same.acts, same.cancels)


@pytest.mark.parametrize(
    "make",
    [
        lambda: jl.callbacks.ImageSaver(count=TWO, every_n_epochs=TWO),  # type: ignore[arg-type]
        lambda: jl.callbacks.TensorBoardLogger(weight_histograms=TWO, gradient_histograms=TWO),  # type: ignore[arg-type]
        lambda: jl.callbacks.Profiler(steps=(TWO, TWO + 1)),  # type: ignore[arg-type]
        lambda: jl.metrics.TopKAccuracy(TWO),  # type: ignore[arg-type]
        lambda: jl.metrics.MatthewsCorrelationCoefficient(TWO),  # type: ignore[arg-type]
        lambda: jl.TrainingEpochs(small.samples(8), TWO, seed=TWO)[TWO][np.int64(0)],  # type: ignore[arg-type]
        lambda: jl.NonuniformTrainingEpochs([[1], [2, 3]], TWO, batches_per_sort=TWO),  # type: ignore[arg-type]
        lambda: jl.in_batches(small.samples(8), TWO)[: np.int64(1)],  # type: ignore[arg-type]
        lambda: jl.repeat([1, 2, 3], batch_count=TWO),  # type: ignore[arg-type]
        lambda: jl.pad_and_collate([np.zeros(2), np.zeros(3)], pad_value=TWO, lengths=(np.int64(4),)),  # type: ignore[arg-type]
    ],
)
def test_what_is_made_takes_them(make: Any) -> None:
    make()


def test_a_fit_takes_them() -> None:
    epochs = jl.TrainingEpochs(small.samples(16), np.int64(4), seed=np.int64(1))  # type: ignore[arg-type]
    numbers: dict[str, Any] = {"limit_batches": TWO, "seed": TWO}
    training_loop = small.training_loop(training=epochs, steps_per_dispatch=TWO)
    loop, _ = training_loop.fit(small.model(), TWO, **numbers)  # type: ignore[arg-type]
    plain = small.training_loop(training=jl.TrainingEpochs(small.samples(16), 4, seed=1), steps_per_dispatch=2)
    expected, _ = plain.fit(small.model(), 2, limit_batches=2, seed=2)
    small.assert_trees_equal(loop, expected)


def test_the_learning_rate_finder_takes_them() -> None:
    optimizer = optax.inject_hyperparams(optax.sgd)(learning_rate=0.1)
    training_loop = small.training_loop(training=jl.TrainingEpochs(small.samples(160), 4), optimizer=optimizer)
    numbers: dict[str, Any] = {"start_rate": np.float32(1e-4), "end_rate": np.float64(10), "steps": np.int64(40)}
    with pytest.raises(ValueError, match=r"at rates from 0.0001 to 10 the loss.*never fell"):  # the labels are random
        jl.find_learning_rate(training_loop, small.model(), **numbers)
