"""SIGTERM and Ctrl-C anywhere in a fit: it saves, ends in bounded time, and the resumed run equals the one without."""

import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from jaxloop.checkpoint.store import Store
from tests.reliability.chains import BOUNDARY, CALLS, End
from tests.reliability.outcomes import differences, outcome
from tests.reliability.running import Decide, Ended, run
from tests.reliability.training import Options

#: Each is met by a run that goes on from where the run at the point before it was saved.
POINTS = (
    *("FIT_START", "compiling begun", "compiling over", "going on begun", "resumed"),
    *("copying over", "merging arrays begun", "syncing over", "committing over", "keeping states begun"),
    *("writing rows begun", "writing points over", BOUNDARY),
)
#: Of steps, rows and events that come one by one.
SINGLE = (
    *(r"row \d+", r"step \d+", r"validation 2 of epoch \d+", r"validation row \d of epoch \d+"),
    *(r"EPOCH_START \d+", r"TRAINING_START \d+", r"TRAINING_END \d+", r"VALIDATION_START \d+"),
    *(r"VALIDATION_END \d+", r"EPOCH_END \d+"),
)
#: Seconds, on a machine that is busy with other things.
BOUND = 60


def timed(decide: Decide) -> tuple[Decide, list[float]]:
    """The same decision, and when it has sent a signal."""
    times: list[float] = []

    def decide_(announced: str) -> signal.Signals | None:
        sent = decide(announced)
        if sent is not None:
            times.append(time.monotonic())
        return sent

    return decide_, times


def assert_preempted(child: Ended, folder: Path, point: str) -> None:
    """Checks that the fit was saved, and that it said so and sent no second dispatch."""
    child.expect(0)
    assert outcome(folder)["stopped"] == "preempted"
    Store(folder / "checkpoints").checkpoints()[-1].verify()
    assert "SIGTERM: the fit saves after the step at hand" in child.stderr
    later = child.points[child.points.index(point) + 1 :]
    assert sum(name.startswith("step ") for name in later) <= 2, later  # a thread of its own may say where it is late


@pytest.mark.slow
@pytest.mark.parametrize(
    ("steps", "epochs", "points"),
    [(1, 26, (*POINTS, *SINGLE)), pytest.param("auto", 26, POINTS, marks=pytest.mark.exhaustive)],
)
def test_a_run_that_is_preempted_anywhere_equals_the_one_that_was_not(
    train: Any, uninterrupted: Any, tmp_path: Path, steps: Any, epochs: int, points: Sequence[str]
) -> None:
    options = Options(steps=steps, epochs=epochs, every=1, resume=True, announces="all", calls=CALLS)
    for point in points:
        end = End(point, sent=signal.SIGTERM)
        decide, times = timed(end)
        child = train(tmp_path, options, decide=decide)
        assert end.met, (point, child.points)
        assert time.monotonic() - times[0] < BOUND
        assert_preempted(child, tmp_path, str(end.met))
    train(tmp_path, options).expect(0)
    assert differences(outcome(tmp_path), uninterrupted(Options(steps=steps, epochs=epochs))) == []


#: A fit whose points are in a callback, in its loader, and in its saves. What it says is what has come of it.
FIT = """
import signal, sys
from pathlib import Path
import jaxloop as jl
from tests import small
from tests.reliability.announcing import announce_boundaries, announce_calls
from tests.reliability.pipes import announce

folder = Path(sys.argv[1])
signal.signal(signal.SIGINT, signal.default_int_handler)
announce_boundaries()
announce_calls("jaxloop.checkpoint.writer:commit", "committing")

@jl.on_host(jl.Event.EPOCH_END, jl.Event.FIT_END)
def calls(loop, event):
    where = f"callback at {event.name}"
    announce(f"{where} begun")
    announce(f"{where} goes on")
    announce(f"{where} over")

class Loader:
    def __init__(self):
        self.batches = list(jl.TrainingEpochs(small.samples(16), 4)[0])
    def __len__(self):
        return 4
    def __iter__(self):
        for number, batch in enumerate(self.batches):
            announce(f"reading {number}")
            yield batch
            announce(f"read {number}")

def made(**changes):
    checkpoint = jl.callbacks.Checkpoint(folder, every=2)
    return small.training_loop(training=[Loader() for _ in range(3)], callbacks=[calls, checkpoint], **changes)

def fit(**changes):
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    try:
        loop, history = made(**changes).fit(small.model(), 3, resume_from=folder)
        print(history.stopped, int(loop.step), flush=True)
    except KeyboardInterrupt as error:
        print("interrupted", int(error.loop.step), flush=True)
    print(handlers == [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)], flush=True)
"""


@pytest.fixture
def fit(compiled: dict[str, str], tmp_path: Path) -> Callable[..., Ended]:
    def fit(script: str = FIT + "fit()", **options: Any) -> Ended:
        return run(["-c", script, str(tmp_path / "run")], tmp_path, environment=compiled, limit=BOUND, **options)

    return fit


def saved(folder: Path) -> str:
    """Where the newest checkpoint is; it is whole."""
    newest = Store(folder / "run").checkpoints()[-1]
    newest.verify()
    return newest.manifest()["about"]["where"]


@pytest.mark.parametrize(
    ("point", "said", "where"),
    [
        ("callback at EPOCH_END begun", "preempted 4", "after epoch 1 of 3"),
        pytest.param("reading 2", "preempted 3", "training batch 3", marks=pytest.mark.slow),
    ],
)
def test_sigterm_in_a_callback_and_while_data_are_read_ends_at_the_next_boundary(
    fit: Any, tmp_path: Path, point: str, said: str, where: str
) -> None:
    ended = fit(decide=End(point, sent=signal.SIGTERM)).expect(0)
    assert ended.stdout.split("\n") == [said, "True", ""]
    assert where in saved(tmp_path)


def test_a_second_sigterm_exits_at_once(fit: Any, tmp_path: Path) -> None:
    def decide(point: str) -> signal.Signals | None:
        return signal.SIGTERM if point in ("callback at EPOCH_END begun", "callback at EPOCH_END goes on") else None

    ended = fit(decide=decide).expect(-signal.SIGTERM)
    assert ended.points[-1] == "callback at EPOCH_END goes on"
    assert ended.stdout == ""


@pytest.mark.slow
def test_sigterm_after_the_last_boundary_ends_the_process_with_the_run_whole(fit: Any, tmp_path: Path) -> None:
    fit(decide=End("callback at FIT_END begun", sent=signal.SIGTERM)).expect(-signal.SIGTERM)
    assert saved(tmp_path) == "the run is over"
    assert fit().expect(0).stdout.startswith("completed 12\n")


@pytest.mark.parametrize(
    "point",
    [
        "step 3",
        pytest.param("committing begun", marks=pytest.mark.slow),
        pytest.param("callback at EPOCH_END begun", marks=pytest.mark.slow),
    ],
)
def test_ctrl_c_saves_drains_and_raises_and_the_run_goes_on(fit: Any, tmp_path: Path, point: str) -> None:
    ended = fit(decide=End(point, sent=signal.SIGINT)).expect(0)
    assert "Ctrl-C: the fit stops after the step at hand" in ended.stderr
    said, handlers, _ = ended.stdout.split("\n")
    assert handlers == "True"
    newest = Store(tmp_path / "run").checkpoints()[-1]
    newest.verify()
    assert said == f"interrupted {newest.manifest()['about']['step']}"
    assert not [path for path in (tmp_path / "run").iterdir() if path.suffix in (".writing", ".removing")]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("callback at EPOCH_END begun", "callback at EPOCH_END goes on"),
        pytest.param("committing begun", "committing over", marks=pytest.mark.slow),
        pytest.param("step 3", "committing begun", marks=pytest.mark.slow),
    ],
    ids=["callback", "save", "step"],
)
def test_a_second_ctrl_c_interrupts_at_once_and_leaves_whole_checkpoints(
    fit: Any, tmp_path: Path, first: str, second: str
) -> None:
    ends = (End(first, sent=signal.SIGINT), End(second, after=first, sent=signal.SIGINT))
    ended = fit(decide=lambda point: next(filter(None, [end(point) for end in ends]), None)).expect(0)
    assert all(end.met for end in ends)
    assert ended.stdout.startswith("interrupted ")
    assert ended.stdout.endswith("True\n")
    assert "callback at EPOCH_END over" not in ended.points
    saved(tmp_path)


#: A loader with a worker, as those of torch have them: a forked process, which it ends when it is closed.
WORKERS = """
import multiprocessing, time, warnings
warnings.simplefilter("ignore")  # JAX warns of forks
def work(pipe, count):
    for number in range(count):
        pipe.send(number)
    time.sleep(100)

class WithWorker(Loader):
    def __iter__(self):
        ours, theirs = multiprocessing.Pipe()
        worker = multiprocessing.get_context("fork").Process(target=work, args=(theirs, 4))
        worker.start()
        try:
            for batch in self.batches:
                ours.recv()
                yield batch
                announce("worker's batch")
        finally:
            worker.terminate()
            worker.join(20)
            print("worker", worker.exitcode, flush=True)

Loader = WithWorker
"""


def test_forked_workers_of_a_loader_are_not_concerned(fit: Any, tmp_path: Path) -> None:
    ended = fit(FIT + WORKERS + "fit()", decide=End("step 2", sent=signal.SIGTERM)).expect(0)
    lines = ended.stdout.splitlines()
    assert lines[-2:] == ["preempted 2", "True"]
    assert set(lines[:-2]) == {f"worker {-signal.SIGTERM}"}
    assert ended.stderr.count("SIGTERM: the fit saves") == 1
    assert "training batch 2" in saved(tmp_path)
