"""What all loggers of trackers do: points, when they come, what fails, and how a run goes on after a kill."""

import warnings
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import optax
import pytest

import jaxloop as jl
from jaxloop.callbacks import MLflowLogger, WandbLogger, outbox
from jaxloop.callbacks.tracking import Point, Tracking, plain_config, require
from jaxloop.chips import StepCost
from jaxloop.engine.hosted import cuts_of, runs_here
from jaxloop.events import Event, Phase, Plan
from jaxloop.measured import UNMEASURED
from jaxloop.testing import check_callback
from tests import small
from tests.callbacks.standing_in import CLOCKS, Failing, FileLogger, InFile, in_folder

STATS = {"loss": 0.5, "validation_loss": 0.25, "learning_rate": 0.1}


def points(path, kind):
    """The values of each point in a file, by step or epoch."""
    found = {}
    for line in path.read_text().splitlines():
        words = line.split(" ")
        if words[0] == kind:
            values = dict(word.split("=") for word in words[5:])
            at = int(words[2 if kind == "batch" else 4])
            assert at not in found, line
            found[at] = {name: float(value) for name, value in values.items()}
    return found


def record_norm(loop, event):
    return loop.record("norm", optax.tree.norm(loop.gradient)) if event is Event.UPDATE_START else loop


class Kept(InFile):
    """A tracker that keeps what it was sent."""

    def __init__(self, path):
        super().__init__(path)
        self.sent = []

    def send(self, points):
        self.sent += points


@pytest.fixture
def tracked(tmp_path):
    """A log made by hand, and its tracker."""

    def make(report="batch", every=1, plan=None):
        tracker = Kept(tmp_path / "run.txt")
        return Tracking("Mine", tracker, plan or Plan(2, 3, ("loss",), report), every=every, timeout=30), tracker

    return make


@pytest.mark.parametrize("steps_per_dispatch", [1, 3])
def test_every_value_of_a_fit_is_sent_once_in_order(steps_per_dispatch, tmp_path):
    logger = FileLogger(tmp_path / "run.txt")
    training = jl.TrainingEpochs(small.samples(40), batch_size=4)
    training_loop = small.training_loop(
        training=training, callbacks=[record_norm, logger], steps_per_dispatch=steps_per_dispatch
    )
    _, history = training_loop.fit(small.model(), 2)
    batches, epochs = (points(tmp_path / "run.txt", kind) for kind in ("batch", "epoch"))
    assert list(batches) == [*range(1, 21)]
    names = [name for name in history.batches if name not in ("epoch", "batch", "step")]
    for row, values in enumerate(batches.values()):
        assert values == {name: float(history.batches[name][row]) for name in names}
    assert list(epochs) == [1, 2]
    names = [name for name in history.epochs if name not in {"epoch", *CLOCKS}]
    assert {"validation_loss", "norm", "learning_rate"} < set(names)
    for row, values in enumerate(epochs.values()):
        assert values == {name: float(history.epochs[name][row]) for name in names}
    assert (tmp_path / "run.txt").read_text().splitlines()[-1] == "end completed"


def test_each_set_of_validation_is_in_the_points_of_epochs(tmp_path):
    sets = {"in_domain": small.samples(6, seed=1), "out_of_domain": small.samples(9, seed=2)}
    changes = {"validation": sets, "callbacks": [FileLogger(tmp_path / "run.txt")], "validate_at_start": True}
    _, history = small.training_loop(**changes).fit(small.model(), 2)
    batches, epochs = (points(tmp_path / "run.txt", kind) for kind in ("batch", "epoch"))
    assert not any("domain" in name for values in batches.values() for name in values)
    assert list(epochs) == [0, 1, 2]
    for row, values in enumerate(epochs.values()):
        for name in ("in_domain_loss", "out_of_domain_accuracy"):
            assert values[name] == float(history.epochs[name][row])


def test_where_epochs_are_reported_there_are_no_points_of_batches(tmp_path):
    small.training_loop(callbacks=[FileLogger(tmp_path / "run.txt")], report="epoch").fit(small.model(), 2)
    assert points(tmp_path / "run.txt", "batch") == {}
    assert list(points(tmp_path / "run.txt", "epoch")) == [1, 2]


@pytest.mark.parametrize("steps_per_dispatch", [1, 3])
def test_every_so_manieth_batch_has_a_point_by_its_step_alone(steps_per_dispatch, tmp_path):
    logger = FileLogger(tmp_path / "run.txt", every=4)
    training = jl.TrainingEpochs(small.samples(40), batch_size=4)
    changes = {"training": training, "callbacks": [logger], "steps_per_dispatch": steps_per_dispatch}
    small.training_loop(**changes).fit(small.model(), 2)
    assert list(points(tmp_path / "run.txt", "batch")) == [4, 8, 12, 16, 20]


@pytest.mark.parametrize(("epochs", "batches", "every"), [(2, 500, 1), (1, 1001, 2), (100, 1024, 103)])
def test_a_long_fit_has_about_a_thousand_points_of_batches(epochs, batches, every, tracked, view, columns):
    log, tracker = tracked(every=None, plan=Plan(epochs, batches, ("loss",)))
    log(view(stats=STATS), Event.FIT_START)
    for first in range(0, 3 * every, every):
        log.rows(columns(step=first, loss=[0.5] * every, learning_rate=[0.1] * every))
    log.close()
    assert [point.step for point in tracker.sent] == [every, 2 * every, 3 * every]


def test_what_was_not_measured_is_left_out_and_what_has_diverged_is_not(tracked, view, columns):
    stats = STATS | {"norm": UNMEASURED, "count": np.int32(-(2**31))}
    log, tracker = tracked()
    log(view(stats=stats), Event.FIT_START)
    counts = np.array([-(2**31), 2**31 - 1], np.int32)
    log.rows(columns(loss=[np.nan, np.inf], learning_rate=[0.1] * 2, norm=[UNMEASURED, -np.inf], count=counts))
    log(view(None, stats | {"loss": np.float32(np.nan)}, epoch=1), Event.EPOCH_END)
    log.close()
    first, second, epoch = tracker.sent
    assert set(first.values) == {"loss", "learning_rate"}
    assert np.isnan(first.values["loss"])
    assert (second.values["loss"], second.values["norm"], second.values["count"]) == (np.inf, -np.inf, 2**31 - 1)
    assert not {"norm", "count"} & set(epoch.values)
    assert np.isnan(epoch.values["loss"])


def test_rows_of_validation_and_statistics_of_validation_are_in_no_point_of_a_batch(tracked, view, columns):
    log, tracker = tracked()
    log(view(stats=STATS), Event.FIT_START)
    log.rows(columns(Phase.VALIDATION, loss=[0.5], learning_rate=[0.1]))
    log.rows(columns(loss=[0.5], validation_loss=[0.25], learning_rate=[0.1]))
    log.close()
    assert [set(point.values) for point in tracker.sent] == [{"loss", "learning_rate"}]


def test_the_speed_of_an_epoch_leaves_compilation_out(tracked, view, columns, clock_of, monkeypatch):
    from jaxloop.callbacks import tracking

    clock = clock_of(tracking)
    clock.time = lambda: clock.now
    log, tracker = tracked()
    log(view(stats=STATS), Event.FIT_START)
    log(view(None), Event.EPOCH_START)
    log(view(Phase.TRAINING), Event.TRAINING_START)
    log.notice("Compiled", 7.0)
    rows = columns(loss=[0.5, 0.5], learning_rate=[0.1, 0.1], batch_size=16)
    rows.cost = StepCost(0.25, lambda: 4096)
    log.rows(rows)
    clock.now += 9.0
    log(view(Phase.TRAINING, STATS, epoch=1), Event.TRAINING_END)
    clock.now += 1.0
    log(view(None, STATS, epoch=1), Event.EPOCH_END)
    log.close()
    expected = {"seconds": 10.0, "examples_per_second": 16.0, "mfu": 0.25, "peak_memory_bytes": 4096}
    assert tracker.sent[-1].values.items() >= expected.items()


@pytest.mark.slow
def test_a_run_that_is_killed_anywhere_goes_on_as_if_it_had_not_been():
    check_callback(in_folder, every=2)


def test_points_that_a_tracker_may_lose_are_kept_with_a_checkpoint(tracked, view, columns, monkeypatch):
    monkeypatch.setattr(outbox, "_SECONDS_BETWEEN", 0.01)
    log, tracker = tracked()
    tracker.may_lose = 3
    log(view(stats=STATS), Event.FIT_START)
    log.rows(columns(loss=[0.5, 0.25, 0.125, np.nan], learning_rate=[0.1] * 4))
    while not log._recent:
        pass
    log.rows(columns(step=4, loss=[np.inf], learning_rate=[0.1]))
    state = log.state()
    log.close()
    other, found = tracked()
    other.resume(view(stats=STATS), state | {"tracker": {"path": str(tracker.path)}})
    other.close()
    assert [point.step for point in found.sent][-4:] == [2, 3, 4, 5]
    kept = found.sent[-4:]
    assert [point.values["loss"] for point in kept[:2]] == [0.25, 0.125]
    assert np.isnan(kept[2].values["loss"])
    assert kept[3].values["loss"] == np.inf
    assert all(isinstance(point, Point) for point in kept)


def test_an_outage_at_the_start_warns_once_and_training_goes_on(tmp_path):
    logger = FileLogger(tmp_path / "run.txt", tracker=lambda path: Failing(path, 0, begins=False))
    with pytest.warns(RuntimeWarning, match="FileLogger: the tracker cannot be reached. Training goes on") as told:
        loop, _ = small.training_loop(callbacks=[logger]).fit(small.model(), 2)
    assert (len(told), int(loop.step)) == (1, 6)
    assert not (tmp_path / "run.txt").exists()


def test_what_waits_is_sent_before_the_last_checkpoint_says_that_the_run_is_over(tracked, view, columns):
    log, tracker = tracked()
    log(view(stats=STATS), Event.FIT_START)
    log.rows(columns(loss=[0.5, 0.25], learning_rate=[0.1] * 2))
    assert len(log.state()["points"]) == 2
    log(view(stats=STATS), Event.FIT_END)
    assert [point.step for point in tracker.sent] == [1, 2]
    assert log.state()["points"] == []
    log.close()
    assert [point.step for point in tracker.sent] == [1, 2]


def test_a_run_that_cannot_be_reached_when_it_goes_on_is_known_to_the_next_process(tracked, view, columns, tmp_path):
    log, tracker = tracked()
    log(view(stats=STATS), Event.FIT_START)
    log.rows(columns(loss=[0.5, 0.25], learning_rate=[0.1] * 2))
    state = log.state()
    log.close()
    unreached = Tracking("Mine", Failing(tmp_path / "other.txt", 0, begins=False), Plan(2, 3), every=1, timeout=30)
    with pytest.warns(RuntimeWarning, match="Mine: the tracker cannot be reached"):
        unreached.resume(view(stats=STATS), state)
    again = unreached.state()
    unreached.close()
    assert (again["tracker"], again["points"]) == ({"path": str(tracker.path)}, state["points"])
    assert len(again["points"]) == 2


def test_a_failure_on_the_way_warns_once_and_nothing_is_lost(tmp_path, monkeypatch):
    monkeypatch.setattr(outbox, "_SECONDS_BETWEEN", 0.01)
    monkeypatch.setattr(outbox, "_SECONDS_AFTER_FAILURE", 0.02)
    logger = FileLogger(tmp_path / "run.txt", tracker=lambda path: Failing(path, 2))

    @jl.on_host(Event.EPOCH_END)
    def wait(loop, event):
        import time

        time.sleep(0.2)

    with pytest.warns(RuntimeWarning, match=r"could not be sent, OSError\('no network'\)\. They are kept") as told:
        small.training_loop(callbacks=[wait, logger]).fit(small.model(), 3)
    assert len(told) == 1
    assert list(points(tmp_path / "run.txt", "batch")) == [*range(1, 10)]


def test_what_could_not_be_sent_until_the_end_is_told_and_the_fit_keeps_its_result(tmp_path):
    logger = FileLogger(tmp_path / "run.txt", tracker=lambda path: Failing(path, None))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        loop, _ = small.training_loop(callbacks=[logger]).fit(small.model(), 2)
    assert int(loop.step) == 6
    assert "OSError('no network'). 8 points are not known to be sent" in str(told[-1].message)


@pytest.mark.parametrize("logger", [WandbLogger(), MLflowLogger()], ids=repr)
def test_of_several_processes_only_the_first_logs(logger):
    first, other = (SimpleNamespace(writes=writes) for writes in (True, False))
    assert [runs_here(logger, cast(Any, placement)) for placement in (first, other)] == [True, False]


@pytest.mark.parametrize("logger", [WandbLogger(), MLflowLogger()], ids=repr)
def test_such_a_logger_cuts_no_step(logger):
    assert [cuts_of(logger, phase) for phase in Phase] == [frozenset()] * 2


@pytest.mark.parametrize("how", ["cancelled", "failed"])
def test_a_tracker_is_told_how_the_fit_has_ended(how, tmp_path):
    def end(loop, event):
        return loop.cancel(jl.Scope.FIT, when=loop.step >= 2) if event is Event.BATCH_END else loop

    @jl.on_host(Event.EPOCH_END)
    def fail(loop, event):
        raise RuntimeError("out of luck")

    logger = FileLogger(tmp_path / "run.txt")
    training_loop = small.training_loop(callbacks=[logger, end if how == "cancelled" else fail])
    if how == "failed":
        with pytest.raises(RuntimeError, match="out of luck"):
            training_loop.fit(small.model(), 2)
    else:
        training_loop.fit(small.model(), 2)
    assert (tmp_path / "run.txt").read_text().splitlines()[-1] == f"end {how}"


def test_a_package_that_is_missing_is_named_with_its_extra():
    with pytest.raises(ModuleNotFoundError, match=r"Mine: it needs no_such_package.*pip install 'jaxloop\[some\]'"):
        require("Mine", "no_such_package", "some")


def test_a_config_is_plain_and_what_is_not_is_refused_by_its_path():
    given = {"width": np.int64(64), "rate": np.float32(0.5), "net": {"layers": (1, 2)}, "none": None}
    assert plain_config("Mine", given) == {"width": 64, "rate": 0.5, "net": {"layers": [1, 2]}, "none": None}
    with pytest.raises(TypeError, match=r"Mine: `config` must hold numbers.*at 'net/optimizer'. Write it as a string"):
        plain_config("Mine", {"net": {"optimizer": object()}})
