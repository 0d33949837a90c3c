"""The profile of some steps, read back from the files."""

import gzip
import json

import jax
import numpy as np
import pytest

import jaxloop as jl
from jaxloop.callbacks import Profiler
from jaxloop.events import Event, Phase, Plan
from tests import small
from tests.callbacks import replaying


class Session:
    """Stands in for `jax.profiler`, which takes seconds: notes when it traced, and the marks."""

    def __init__(self):
        self.log = []
        self.ProfileOptions = jax.profiler.ProfileOptions

    def start_trace(self, directory, *, create_perfetto_trace, profiler_options):
        self.log.append("start")

    def stop_trace(self):
        self.log.append("stop")

    def StepTraceAnnotation(self, name, *, step_num):
        self.log.append(step_num)
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


@pytest.fixture
def session(monkeypatch):
    session = Session()
    monkeypatch.setattr(jax, "profiler", session)
    return session


def training_loop(*callbacks, batches=12, **changes):
    training = jl.TrainingEpochs(small.samples(4 * batches), batch_size=4)
    return small.training_loop(training=training, callbacks=callbacks, **changes)


def traces(folder):
    return sorted((folder / "plugins" / "profile").glob("*/*.xplane.pb"))


def events(trace):
    profile = jax.profiler.ProfileData.from_file(str(trace))
    # what an event holds is read here: its memory is the profile's, and goes with it
    return [
        (event.name, dict(event.stats)) for plane in profile.planes for line in plane.lines for event in line.events
    ]


@pytest.mark.filterwarnings("ignore:builtin type:DeprecationWarning")  # of JAX 0.12's reader; as an error it aborts
def test_the_files_hold_the_windows_dispatches_marked_by_step(tmp_path):
    training_loop(Profiler(tmp_path / "profile", steps=(4, 8)), steps_per_dispatch=2).fit(small.model(), epochs=1)

    (trace,) = traces(tmp_path / "profile")
    found = events(trace)
    marks = [stats["step_num"] for name, stats in found if name == "training"]
    assert marks == [4, 6, 8]  # the last is under way when the window's last is done
    assert sum(name.startswith("PjitFunction(training_step_x2") for name, _ in found) >= 3
    (perfetto,) = trace.parent.glob("perfetto_trace.json.gz")
    names = {event.get("name") for event in json.loads(gzip.decompress(perfetto.read_bytes()))["traceEvents"]}
    assert "training" in names
    assert list(trace.parent.glob("*.trace.json.gz"))


@pytest.mark.parametrize(
    ("steps_per_dispatch", "steps", "expected"),
    [
        (1, (4, 7), ["start", 4, 5, 6, 7, "stop"]),
        (2, (5, 7), ["start", 4, 6, 8, "stop"]),
        (4, (8, 9), ["start", 8, "stop"]),
        (1, (0, 2), ["start", 0, 2, "stop"]),  # the first two are sent under one mark, before any is told of
        (4, (1, 3), ["start", 0, "stop"]),
        (4, (3, 5), ["start", 8, "stop"]),  # among the first two dispatches: moved behind them, two steps as asked for
    ],
)
def test_the_window_is_whole_dispatches(session, tmp_path, steps_per_dispatch, steps, expected):
    loop = training_loop(Profiler(tmp_path, steps), validation=None, steps_per_dispatch=steps_per_dispatch)

    loop.fit(small.model(), epochs=1)

    assert session.log == expected


def test_a_window_goes_on_in_the_next_epoch(session, tmp_path):
    training_loop(Profiler(tmp_path, steps=(10, 14))).fit(small.model(), epochs=3)

    assert session.log == ["start", 10, 11, 12, 14, "stop"]


def test_a_window_does_not_begin_while_validation_is_all_that_is_left_of_the_epoch(session, tmp_path):
    @jl.on_host(Event.VALIDATION_START)
    def tell(loop, event):
        session.log.append("validation")

    training_loop(Profiler(tmp_path, steps=(12, 14)), tell).fit(small.model(), epochs=2)

    assert session.log == ["validation", "start", 12, 14, "stop", "validation"]


def test_where_an_epoch_is_one_dispatch_the_window_is_the_next_epoch(session, tmp_path):
    loop = training_loop(Profiler(tmp_path, steps=(3, 5)), validation=None, steps_per_dispatch=12)

    loop.fit(small.model(), epochs=3)

    assert session.log == ["start", 12, "stop"]


@pytest.mark.parametrize(("steps", "expected"), [((10, 99), ["start", 10, 11, "stop"]), ((50, 60), [])])
def test_a_fit_that_ends_too_soon_leaves_a_shorter_trace_or_none(session, tmp_path, steps, expected):
    training_loop(Profiler(tmp_path, steps)).fit(small.model(), epochs=1)

    assert session.log == expected


def test_a_trace_ends_when_the_fit_fails(session, tmp_path):
    @jl.on_host(Event.BATCH_END)
    def fail(loop, event):
        if int(loop.batch_index) == 6:
            raise RuntimeError("out of luck")

    with pytest.raises(RuntimeError, match="out of luck"):
        training_loop(Profiler(tmp_path, steps=(4, 10)), fail).fit(small.model(), epochs=1)

    assert session.log == ["start", 4, 5, 6, 7, 8, "stop"]


def test_every_fit_is_traced(session, tmp_path):
    loop = training_loop(Profiler(tmp_path, steps=(4, 5)))

    trained, _ = loop.fit(small.model(), epochs=1)
    loop.fit(trained, epochs=1)

    assert session.log == 2 * ["start", 4, 5, "stop"]


def test_rows_of_validation_do_not_count(session, tmp_path, columns, view):
    one = Profiler(tmp_path, steps=(4, 5)).bind(Plan(1, 9))
    one(view(batch_count=9), Event.TRAINING_START)
    one.rows(columns(Phase.VALIDATION, validation_loss=[0.5] * 9))

    assert session.log == []


def test_another_trace_that_is_running_is_said_and_left_alone(tmp_path):
    jax.profiler.start_trace(tmp_path / "other")
    try:
        with pytest.raises(
            RuntimeError, match=r"Profiler: the trace cannot begin, .*Only one.*Stop the other one first"
        ):
            training_loop(Profiler(tmp_path, steps=(4, 6))).fit(small.model(), epochs=1)
    finally:
        jax.profiler.stop_trace()
    assert len(traces(tmp_path / "other")) == 1


def test_training_is_the_same_with_a_profile(session, tmp_path):
    plain, _ = training_loop().fit(small.model(), epochs=1)
    profiled, _ = training_loop(Profiler(tmp_path)).fit(small.model(), epochs=1)

    np.testing.assert_array_equal(profiled.model.params["kernel"], plain.model.params["kernel"])


@pytest.mark.parametrize("steps", [(5, 5), (7, 3), (-1, 3), (1.5, 3), (True, 3), (3,), 3, "ab"])
def test_a_window_that_is_none_is_refused(steps):
    with pytest.raises(ValueError, match=r"Profiler: `steps` must be \(first, end\).*such as \(10, 20\), got"):
        Profiler(steps=steps)


def test_a_folder_that_cannot_be_made_is_said_before_training(tmp_path):
    (tmp_path / "file").touch()

    with pytest.raises(NotADirectoryError, match=r"Profiler: the folder '.*file/profile' cannot be made.*another path"):
        training_loop(Profiler(tmp_path / "file" / "profile")).fit(small.model(), epochs=1)


def test_making_one_touches_nothing_and_its_repr_shows_its_window(tmp_path):
    assert repr(Profiler("run/profile")) == "Profiler('run/profile', steps=(10, 20))"
    Profiler(tmp_path / "profile")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def profiled(session, tmp_path, view, columns):
    """Tells a profiler of single steps, up to so many of 20 in a training, from a state or from the start."""

    def tell(first, last, *, steps=(5, 9), state=None):
        session.log.clear()
        one = Profiler(tmp_path / "profile", steps).bind(Plan(1, 20))
        if state is None:
            one(view(), Event.FIT_START)
            one(view(batch_count=20), Event.TRAINING_START)
        else:
            one.resume(view(), state)
        for step in range(first, last):
            one.rows(columns(step=step, loss=[0.5]))
        return replaying.saved(one), list(session.log)

    return tell


def test_a_window_that_comes_after_a_resume_is_counted_from_the_start_of_the_run(profiled):
    _, whole = profiled(0, 20)
    assert whole == ["start", 5, 6, 7, 8, 9, "stop"]
    for save in range(1, 4):
        state, before = profiled(0, save)
        assert before == []
        assert profiled(save, 20, state=state)[1] == whole


@pytest.mark.parametrize("save", [4, 5, 6, 7, 8])
def test_a_trace_that_was_running_begins_again_with_the_steps_that_were_left(profiled, save):
    state, before = profiled(0, save)
    assert before[0] == "start"
    assert "stop" not in before
    first = save + 2  # one is known to be done again, and one is sent
    end = first + 9 - max(5, save)
    assert profiled(save, 20, state=state)[1] == ["start", *range(first, end + 1), "stop"]


def test_a_window_that_is_over_is_not_traced_again(profiled):
    for save in (9, 12, 20):
        state, before = profiled(0, save)
        assert before[-1] == "stop"
        assert profiled(save, 20, state=state)[1] == []


@pytest.mark.parametrize(
    ("steps", "expected"),
    [((2, 6), []), ((2, 14), ["start", 12, 13, 14, 15, 16, "stop"]), ((15, 16), ["start", 15, 16, "stop"])],
)
def test_another_window_than_before_is_counted_from_the_start_of_the_run_too(profiled, steps, expected):
    state, _ = profiled(0, 10)
    assert profiled(10, 20, steps=steps, state=state)[1] == expected


def test_a_resume_makes_the_folder(profiled, tmp_path):
    state, _ = profiled(0, 1)
    (tmp_path / "profile").rmdir()
    profiled(1, 2, state=state)
    assert (tmp_path / "profile").is_dir()
