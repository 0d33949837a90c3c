"""`restore`: the loop of a checkpoint, without its run."""

import shutil
from pathlib import Path

import numpy as np
import pytest

import jaxloop as jl
from jaxloop.checkpoint.store import Store
from jaxloop.errors import CheckpointError, CorruptCheckpointError, StateMismatchError
from tests import small


@pytest.fixture
def run(tmp_path) -> tuple[Path, list[jl.Loop]]:
    """A folder with checkpoints after each of two epochs and at the end, and the loops at these moments."""
    loops: list[jl.Loop] = []

    @jl.on_host(jl.Event.EPOCH_END, reads="loop")
    def keep(loop, event):
        loops.append(loop)

    checkpoint = jl.callbacks.Checkpoint(tmp_path, keep=9, best="validation_loss")
    loops.append(small.training_loop().fit(small.model(), 2, callbacks=[keep, checkpoint])[0])
    return tmp_path, loops


def parameters(loop: jl.Loop) -> dict[str, np.ndarray]:
    return {name: np.asarray(value) for name, value in loop.model.params.items()}


def assert_same(one: jl.Loop, other: jl.Loop) -> None:
    small.assert_trees_equal((one.model.params, one.opt_state), (other.model.params, other.opt_state))


def test_the_newest_loop_is_given_for_evaluation_and_for_a_new_fit(run) -> None:
    directory, loops = run
    training_loop = small.training_loop()
    loop = jl.restore(directory, training_loop, small.model(1))
    small.assert_trees_equal(loop, loops[-1])
    batches = jl.in_batches(small.samples(8, seed=1), 4)
    assert training_loop.evaluate(loop, batches) == training_loop.evaluate(loops[-1], batches)
    further, _ = training_loop.fit(loop, 1)
    expected, _ = training_loop.fit(loops[-1], 1)
    small.assert_trees_equal(further, expected)


def test_a_step_names_the_newest_checkpoint_after_it(run) -> None:
    directory, loops = run
    assert_same(jl.restore(directory, small.training_loop(), small.model(), step=3), loops[0])
    with pytest.raises(CheckpointError, match=r"no checkpoint of step 4; there are those of steps \[3, 6\]"):
        jl.restore(directory, small.training_loop(), small.model(), step=4)


def test_the_best_is_given_by_its_name(run) -> None:
    directory, loops = run
    best = min(loops[:2], key=lambda loop: float(loop.stats["validation_loss"]))
    assert_same(jl.restore(directory, small.training_loop(), small.model(), step="best"), best)


def test_no_best_is_said(tmp_path) -> None:
    small.training_loop().fit(small.model(), 1, callbacks=[jl.callbacks.Checkpoint(tmp_path)])
    with pytest.raises(CheckpointError, match="none is marked as the best"):
        jl.restore(tmp_path, small.training_loop(), small.model(), step="best")


def test_data_and_plan_may_be_others(run) -> None:
    directory, loops = run
    training = jl.TrainingEpochs(small.samples(20), 5, seed=9)
    other = small.training_loop(training=training, validation=None, steps_per_dispatch=3)
    assert_same(jl.restore(directory, other, small.model()), loops[-1])


@pytest.mark.parametrize("options", [{"steps": 5}, {"epochs": 2, "limit_batches": 2}], ids=["steps", "limited"])
def test_a_schedule_goes_on_by_the_length_of_the_run(tmp_path, options) -> None:
    """The plan belongs to the loop: a step by hand takes the rate that it takes from the loop that the fit gave."""
    down = [jl.ScheduleSegment(jl.shapes.linear, start_rate=1.0, end_rate=0.0)]
    scheduled = [jl.callbacks.learning_rate_scheduler(down), jl.callbacks.Checkpoint(tmp_path, every=1, keep=9)]
    training_loop = small.training_loop(callbacks=scheduled)
    given, _ = training_loop.fit(small.model(), **options)
    assert jl.restore(tmp_path, training_loop, small.model()).plan == given.plan
    after = training_loop.train_step(
        jl.restore(tmp_path, training_loop, small.model(), step=2), training_loop.training[0][2]
    )
    assert float(after.stats["learning_rate"]) == pytest.approx(1 - 2 / (given.plan.total_steps - 1))


def test_a_folder_without_checkpoints_is_an_error(tmp_path) -> None:
    with pytest.raises(CheckpointError, match="there is no checkpoint in"):
        jl.restore(tmp_path / "none", small.training_loop(), small.model())


def test_a_damaged_checkpoint_gives_the_one_before_or_an_error_if_it_was_asked_for(run) -> None:
    directory, loops = run
    newest = Store(directory).checkpoints()[-1]
    shutil.rmtree(newest.path / "arrays")
    with pytest.warns(RuntimeWarning, match=f"checkpoint {newest.ordinal} is not used"):
        assert_same(jl.restore(directory, small.training_loop(), small.model()), loops[1])
    with pytest.raises(CorruptCheckpointError, match="arrays"):
        jl.restore(directory, small.training_loop(), small.model(), step=6)
    for saved in Store(directory).checkpoints():
        shutil.rmtree(saved.path / "arrays", ignore_errors=True)
    with pytest.warns(RuntimeWarning), pytest.raises(CorruptCheckpointError, match="none of 3 checkpoints is whole"):
        jl.restore(directory, small.training_loop(), small.model())


def test_a_model_of_another_form_is_refused(run) -> None:
    with pytest.raises(StateMismatchError, match=r"kernel.*\[4, 3\].*\[4, 5\]"):
        jl.restore(run[0], small.training_loop(), small.model(classes=5))
