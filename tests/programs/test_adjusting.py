"""A plateau and a schedule of one hyperparameter."""

from typing import Any

import optax
import pytest

from jaxloop.callbacks import hyperparameter_scheduler, learning_rate_scheduler, reduce_on_plateau
from tests import small
from tests.compiling import counted_compiles, steps_in

SCHEDULE = optax.constant_schedule(0.1)


def parts() -> Any:
    parts = {name: optax.inject_hyperparams(optax.sgd)(learning_rate=0.5, momentum=0.9) for name in ("kernel", "bias")}
    return optax.partition(parts, {"kernel": "kernel", "bias": "bias"})


def fit(*callbacks: Any, **changes: Any) -> Any:
    return small.training_loop(validation=None, callbacks=callbacks, **changes).fit(small.model(), 3)


@pytest.mark.parametrize("order", [1, -1])
def test_a_schedule_would_overwrite_a_reduced_rate_and_is_refused_before_a_step_is_compiled(order: int) -> None:
    both = [learning_rate_scheduler(SCHEDULE), reduce_on_plateau("loss")][::order]
    message = r"'reduce_on_plateau' adjusts 'learning_rate', but 'learning_rate_scheduler' sets it at each step"
    with counted_compiles() as counts, pytest.raises(ValueError, match=message):
        fit(*both)
    assert steps_in(counts) == {}


def test_a_schedule_of_one_group_is_in_the_way_of_a_plateau_of_all() -> None:
    scheduler = learning_rate_scheduler(SCHEDULE, group="bias")
    with pytest.raises(ValueError, match="adjusts 'learning_rate/bias', but"):
        fit(scheduler, reduce_on_plateau("loss"), optimizer=parts())
    others = [reduce_on_plateau("loss", group="kernel", factor=0.5, patience=1, min_delta=100.0)]
    others.append(hyperparameter_scheduler("momentum", SCHEDULE, group="kernel"))
    _, history = fit(scheduler, *others, optimizer=parts())
    assert history.epochs["learning_rate/kernel"].tolist() == [0.5, 0.5, 0.25]


def test_two_plateaus_multiply_the_rate_one_after_the_other() -> None:
    plateaus = [
        reduce_on_plateau("loss", factor=0.5, patience=1, min_delta=100.0, name=name) for name in ("one", "other")
    ]
    _, history = fit(*plateaus, optimizer=optax.inject_hyperparams(optax.sgd)(learning_rate=1.0))
    assert history.epochs["learning_rate"].tolist() == [1, 1, 0.25]
