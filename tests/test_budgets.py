"""Tests of fits over a number of steps, and of what ends them."""

from typing import Any

import jax
import numpy as np
import optax
import pytest

import jaxloop as jl
from tests import small


def fitted(steps: int, steps_per_dispatch: Any, **changes: Any) -> tuple[jl.Loop, jl.History]:
    return small.training_loop(steps_per_dispatch=steps_per_dispatch, **changes).fit(small.model(), steps=steps)


@pytest.mark.parametrize("steps_per_dispatch", [1, 2, "auto"])
@pytest.mark.parametrize("steps", [1, 3, 7])
def test_so_many_steps_are_those_of_a_loop_by_hand(steps: int, steps_per_dispatch: Any) -> None:
    schedule = jl.make_schedule([jl.ScheduleSegment(jl.shapes.linear, start_rate=0.5, end_rate=0.0)])
    loop, history = fitted(steps, steps_per_dispatch, callbacks=[jl.callbacks.learning_rate_scheduler(schedule)])
    by_hand = jax.tree.map(np.asarray, small.model().params)
    epochs = small.training_loop().training
    for step in range(steps):
        images, labels = epochs[step // 3][step % 3]

        def loss(params: Any, images: Any = images, labels: Any = labels) -> Any:
            logits = images @ params["kernel"] + params["bias"]
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        gradient = jax.grad(loss)(by_hand)
        rate = 0.5 * (1 - step / max(steps - 1, 1))
        by_hand = jax.tree.map(lambda leaf, change, rate=rate: leaf - rate * change, by_hand, gradient)
    jax.tree.map(lambda one, two: np.testing.assert_allclose(one, two, atol=1e-6), loop.model.params, by_hand)
    assert len(history.batches["step"]) == steps
    assert len(history.epochs["validation_loss"]) == -(-steps // 3)
    assert np.isfinite(history.epochs["validation_loss"]).all()
    assert history.stopped == "completed"


def test_the_plan_knows_the_steps() -> None:
    plans = []

    @jl.on_host(jl.Event.FIT_START)
    class Planned:
        def bind(self, plan: jl.Plan) -> "Planned":
            plans.append(plan)
            return self

        def __call__(self, loop: Any, event: jl.Event) -> None:
            pass

    fitted(7, 1, callbacks=[Planned()])
    assert [(plan.total_steps, plan.epoch_count, plan.batch_count, plan.assumed) for plan in plans] == [
        (7, 3, 3, False)
    ]


def test_more_steps_go_on_from_a_loop_with_an_epoch_of_its_own() -> None:
    training_loop = small.training_loop()
    loop, _ = training_loop.fit(small.model(), steps=4)
    loop, history = training_loop.fit(loop, steps=4)
    assert int(loop.step) == 8
    assert history.batches["epoch"].tolist() == [3, 3, 3, 4]


def test_a_cancelled_phase_is_not_made_up_for() -> None:
    cancel = small.at(jl.Event.BATCH_END, lambda loop: loop.cancel(jl.Scope.TRAINING, when=loop.batch_index == 0))
    loop, history = fitted(7, 1, callbacks=[cancel])
    assert int(loop.step) == 3
    assert history.stopped == "completed"


@pytest.mark.parametrize("arguments", [{}, {"epochs": 2, "steps": 3}])
def test_epochs_or_steps_one_of_the_two(arguments: dict[str, int]) -> None:
    with pytest.raises(TypeError, match=r"fit: give how long it trains, as epochs=12, or .* steps=1000"):
        small.training_loop().fit(small.model(), **arguments)


@pytest.mark.parametrize("steps", [0, -1, 2.5, True])
def test_a_wrong_number_of_steps_is_refused(steps: Any) -> None:
    with pytest.raises(ValueError, match="steps: it must be a whole number of at least 1"):
        small.training_loop().fit(small.model(), steps=steps)
