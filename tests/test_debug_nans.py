"""Under `jax_debug_nans` what was not measured ends no program, and a NaN that is the user's does, where it arose."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxloop as jl
from jaxloop import Event
from jaxloop.measured import is_measured
from tests import small

CALLBACKS = [
    lambda: jl.callbacks.ema(0.9, evaluate=True),
    lambda: jl.callbacks.early_stopping("validation_loss", restore_best=True),
    lambda: jl.callbacks.reduce_on_plateau("validation_loss"),
    lambda: jl.callbacks.stop_on_non_finite(),
    lambda: jl.callbacks.clip_by_global_norm(1.0),
]
METRICS = ["accuracy", "top2_accuracy", "perplexity", jl.metrics.MatthewsCorrelationCoefficient(classes=3)]
METRICS += ["auc", "average_precision", "macro_f1", "confusion_matrix"]


@pytest.fixture(autouse=True)
def debug_nans() -> Iterator[None]:
    jax.config.update("jax_debug_nans", True)
    yield
    jax.config.update("jax_debug_nans", False)


def looking(*events: Event, reads: Any = "loop") -> Any:
    return jl.on_host(*events, reads=reads)(lambda loop, event: None)


@pytest.mark.parametrize("steps", [pytest.param(1, marks=pytest.mark.slow), 3, "auto"])
def test_a_fit_with_all_built_in_callbacks_and_metrics_is_not_ended(steps: Any) -> None:
    callbacks = [make() for make in CALLBACKS]
    loop, history = small.training_loop(callbacks=callbacks, metrics=METRICS, steps_per_dispatch=steps).fit(
        small.model(), epochs=2
    )
    assert np.isfinite(history.epochs["validation_loss"]).all()
    assert np.isfinite(loop.stats["loss"])


@pytest.mark.slow
@pytest.mark.parametrize("event", [event for event in Event if event.in_step], ids=lambda event: event.name)
@pytest.mark.parametrize("reads", ["step", "loop"])
def test_a_host_callback_in_the_step_does_not_end_it(event: Event, reads: Any) -> None:
    training_loop = small.training_loop(callbacks=[looking(event, reads=reads)])
    history = training_loop.fit(small.model(), epochs=1)[1]
    assert np.isfinite(history.epochs["validation_loss"]).all()


def test_host_callbacks_between_steps_may_give_the_loop_back() -> None:
    between = [event for event in Event if not event.in_step]
    give_back = jl.on_host(*between, reads="loop")(lambda loop, event: loop.replace(stats=dict(loop.stats)))
    loop, _ = small.training_loop(callbacks=[give_back], optimizer=optax.sgd(0.1)).fit(small.model(), epochs=2)
    assert np.isnan(loop.stats["learning_rate"])  # to users it is NaN until measured, here too
    assert not is_measured(loop.stats["learning_rate"])


@pytest.mark.slow
def test_loops_of_ones_own_are_not_ended_whatever_they_come_from() -> None:
    training_loop = small.training_loop(metrics=METRICS)
    plain = small.training_loop(metrics=METRICS).fit(small.model(), epochs=1)[0]
    without = small.training_loop(validation=None).fit(small.model(), epochs=1)[0]
    for loop in (training_loop.start(small.model(), epochs=1), plain, without):
        loop = training_loop.begin_epoch(loop)
        for batch in training_loop.training[0]:
            loop = training_loop.train_step(loop, batch)
        batches = jax.tree.map(lambda *leaves: np.stack(leaves), *training_loop.training[1])
        loop, rows = training_loop.run_steps(loop, batches)
        assert np.isfinite(rows["loss"]).all()
        assert not is_measured(loop.stats["validation_loss"])
        for batch in training_loop.validation:
            loop = training_loop.eval_step(loop, batch)
        loop = training_loop.end_epoch(loop)
        assert np.isfinite(loop.stats["validation_loss"])


@pytest.mark.slow
def test_evaluation_and_prediction_are_not_ended() -> None:
    training_loop = small.training_loop(metrics=METRICS)
    loop, _ = training_loop.fit(small.model(), epochs=1)
    batches = jl.in_batches(small.samples(6), 4)
    assert all(np.isfinite(value).all() for value in training_loop.evaluate(loop, batches).values())
    assert training_loop.predict(loop, batches).shape == (6, 3)


@pytest.mark.slow
def test_a_phase_in_which_nothing_weighs_anything_is_not_ended() -> None:
    images, labels = small.samples(4)
    nothing = [(images, labels, np.zeros(4, np.float32))]
    training_loop = small.training_loop(validation=nothing, metrics=METRICS)
    history = training_loop.fit(small.model(), epochs=1)[1]
    assert np.isnan(history.epochs["validation_loss"]).all()
    assert not is_measured(history.epochs["validation_loss"]).any()


@pytest.mark.parametrize(("steps", "where"), [(1, "log"), (3, "scan")])  # JAX does not look into a scan
def test_a_nan_of_the_model_is_told_where_it_arises(steps: int, where: str) -> None:
    def broken(params: Any, state: Any, input: Any, *, training: bool, key: Any) -> tuple[Any, Any]:
        return jnp.log(-jnp.abs(input @ params["kernel"]) - 1.0), state

    training_loop = small.training_loop(steps_per_dispatch=steps, validation=None)
    with pytest.raises(FloatingPointError, match=f"nan.* encountered in {where}"):
        training_loop.fit(jl.Model(broken, {"kernel": np.ones((4, 3), np.float32)}, {}), epochs=1)
