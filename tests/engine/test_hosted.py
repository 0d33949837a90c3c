"""Tests of what the engine reads off a host callback."""

from datetime import timedelta
from typing import Any

import pytest

import jaxloop as jl
from jaxloop.engine.hosted import called_with_view, cuts_of, has_memory, hosted_as, runs_here, scope_of
from jaxloop.placement import default_device, resolve
from tests import small


@jl.on_host(jl.Event.BATCH_END)
def observer(loop: Any, event: jl.Event) -> None:
    loop.cancel(jl.Scope.TRAINING).cancel(jl.Scope.EPOCH)


@jl.on_host(jl.Event.UPDATE_START, reads="step")
def inside(loop: Any, event: jl.Event) -> Any:
    return 3


def test_an_observer_cuts_no_step() -> None:
    assert cuts_of(observer, jl.Phase.TRAINING) == frozenset()
    assert hosted_as(observer, "observer").observes(jl.Phase.TRAINING)
    assert cuts_of(inside, jl.Phase.TRAINING) == {jl.Event.UPDATE_START}
    assert cuts_of(inside, jl.Phase.VALIDATION) == frozenset()


def test_what_a_view_was_asked_to_cancel_is_one_scope() -> None:
    asked = called_with_view(hosted_as(observer, "observer"), {}, jl.Event.BATCH_END)
    assert asked == jl.Scope.TRAINING | jl.Scope.EPOCH


def test_a_view_cannot_be_replaced() -> None:
    with pytest.raises(TypeError, match="must return None or the loop it was given, got int"):
        called_with_view(hosted_as(inside, "inside"), {}, jl.Event.UPDATE_START)


def test_rows_give_a_scope_or_nothing() -> None:
    assert scope_of(hosted_as(observer, "observer"), jl.Scope.FIT) == jl.Scope.FIT
    with pytest.raises(TypeError, match=r"`rows` must return None, or the jaxloop.Scope that it cancels, got bool"):
        scope_of(hosted_as(observer, "observer"), True)


def test_it_runs_where_files_are_written() -> None:
    assert runs_here(observer, resolve(default_device()))
    assert not has_memory(observer)
    assert has_memory(jl.callbacks.stop_after(timedelta(seconds=1)))


@pytest.mark.parametrize("steps_per_dispatch", [1, 2])
@pytest.mark.parametrize("may_wait", [False, True])
def test_rows_end_a_training(may_wait: bool, steps_per_dispatch: int) -> None:
    @jl.on_host(jl.Event.BATCH_END)
    class EndAtOnce:
        rows_may_wait = may_wait

        def rows(self, columns: jl.Columns) -> jl.Scope | None:
            return jl.Scope.TRAINING if columns.phase is jl.Phase.TRAINING else None

        def __call__(self, loop: Any, event: jl.Event) -> None:
            raise AssertionError("it takes rows")

    training_loop = small.training_loop(
        training=jl.TrainingEpochs(small.samples(400), 2),
        callbacks=[EndAtOnce()],
        steps_per_dispatch=steps_per_dispatch,
    )
    loop, history = training_loop.fit(small.model(), 2)
    assert history.stopped == "completed"
    assert int(loop.epoch_index) == 2
    if may_wait:
        assert 2 <= int(loop.step) < 400
    else:  # a dispatch that was sent already counts
        assert int(loop.step) == 4 * steps_per_dispatch
