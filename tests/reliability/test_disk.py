"""A full disk and a path that cannot be written: told at once or at the next boundary, and nothing good is lost."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import jaxloop as jl
from jaxloop.checkpoint.store import Store
from jaxloop.errors import CheckpointError
from tests import small
from tests.compiling import counted_compiles
from tests.reliability.running import Ended, run


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Mounts a file system in memory: `mounted("size=20m")`. Skips the test where that is not allowed."""
    folders: list[Path] = []

    def mount(options: str) -> Path:
        folder = tmp_path / f"disk{len(folders)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
        except FileNotFoundError:
            pytest.skip("there is no `mount` on this system")
        if done.returncode:
            pytest.skip(f"a file system cannot be mounted here, which needs root: {done.stderr.strip()}")
        folders.append(folder)
        return folder

    yield mount
    for folder in folders:
        subprocess.run(["umount", str(folder)], check=True, timeout=30)


#: A fit that saves after every step. Each checkpoint holds four megabytes that do not shrink. After `fill` steps all
#: the room on the disk is taken away.
FIT = """
import os, sys, warnings
from pathlib import Path
import jax, numpy as np
import jaxloop as jl
from tests import small

disk, fill = Path(sys.argv[1]), int(sys.argv[2])
warnings.simplefilter("always")
warnings.filterwarnings("ignore", module="(?!jaxloop|__main__|tests)")

def apply(params, state, input, *, training, key):
    return input @ params["kernel"] + params["large"][:3], state

def model(seed=0):
    random = np.random.default_rng(seed)
    return jl.Model(apply, {"kernel": np.zeros((4, 3), np.float32), "large": random.normal(size=2**20).astype("f")}, {})

steps = []

@jl.on_host(jl.Event.BATCH_END)
def counts(loop, event):
    if loop.phase is jl.Phase.TRAINING:
        steps.append(int(loop.step))
        if len(steps) == fill:
            with (disk / "filler").open("wb", buffering=0) as file:
                try:
                    while True:
                        file.write(bytes(1 << 12))
                except OSError:
                    pass

def fit(*, callbacks, **options):
    made = small.training_loop(training=jl.TrainingEpochs(small.samples(40), 4), callbacks=[counts, *callbacks])
    return made.fit(model(), 2, **options)
"""

CHECKPOINTS = """
directory = disk / "run"
checkpoint = jl.callbacks.Checkpoint(directory, every=1, keep=2)
try:
    fit(callbacks=[checkpoint])
except jl.errors.CheckpointError as error:
    assert not isinstance(error, jl.errors.CorruptCheckpointError)
    print(len(steps))
    print(int(error.loop.step))
    print(error)
else:
    raise AssertionError("the disk was not full")
names = sorted(path.name for path in directory.iterdir())
print(names)
assert not any(name.endswith((".writing", ".removing")) for name in names)
from jaxloop.checkpoint.store import Store
for saved in Store(directory).checkpoints():
    saved.verify()
print("whole")
if (disk / "filler").exists():
    (disk / "filler").unlink()
    steps.clear()
    fill = 0
    expected, _ = fit(callbacks=[])
    loop, history = fit(callbacks=[checkpoint], resume_from=directory)
    small.assert_trees_equal(loop, expected)
    print(history.stopped, len(history.batches["loss"]))
"""


@pytest.fixture
def fit(compiled: dict[str, str], tmp_path: Path) -> Callable[..., Ended]:
    def fit(script: str, disk: Path, fill: int) -> Ended:
        return run(["-c", FIT + script, str(disk), str(fill)], tmp_path, limit=90, environment=compiled)

    return fit


@pytest.mark.slow
def test_a_disk_that_fills_up_ends_the_fit_at_the_next_boundary_and_the_run_goes_on_from_the_last_checkpoint(
    fit: Any, mounted: Any
) -> None:
    disk = mounted("size=20m")
    said = fit(CHECKPOINTS, disk, 5).expect(0).stdout.splitlines()
    rows, step, message = int(said[0]), int(said[1]), said[2]
    assert 5 <= rows <= step <= 8  # the disk is full once the fifth row is told, and a save or two are under way then
    assert message.startswith(f"checkpoint: {disk / 'run'} did not get checkpoint 0000000")
    assert "(step " in message
    assert "RESOURCE_EXHAUSTED" in message or "No space left" in message
    assert f"Make room on the disk, and go on by resume_from='{disk / 'run'}'" in message
    assert said[4:] == ["whole", "completed 20"]


@pytest.mark.slow
def test_on_a_disk_with_room_for_no_checkpoint_the_first_save_says_so(fit: Any, mounted: Any) -> None:
    disk = mounted("size=3m")
    said = fit(CHECKPOINTS, disk, 0).expect(0).stdout.splitlines()
    assert "did not get checkpoint 00000001 (step 1)" in said[2]
    assert "None was saved before. Make room on the disk, and begin again" in said[2]
    assert said[3:] == ["['lock']", "whole"]


#: The log has long rows: what is left of its last block, a full disk still has room for.
LOGS = """
def wide(loop, event):
    for number in range(40):
        loop = loop.record(f"number_{number}", loop.stats["loss"] + number)
    return loop

loggers = [jl.callbacks.CSVLogger(disk / "log.csv"), jl.callbacks.TensorBoardLogger(disk / "tensorboard")]
loop, history = fit(callbacks=[wide, *loggers, jl.callbacks.Checkpoint(DIRECTORY, every=5)])
print(history.stopped, int(loop.step), len(steps))
"""


def test_a_logger_on_a_full_disk_warns_once_and_training_and_saving_go_on(
    fit: Any, mounted: Any, tmp_path: Path
) -> None:
    ended = fit(LOGS.replace("DIRECTORY", repr(str(tmp_path / "run"))), mounted("size=20m"), 5).expect(0)
    assert ended.stdout == "completed 20 20\n"
    for logger in ("CSVLogger", "TensorBoardLogger"):
        assert ended.stderr.count(f"RuntimeWarning: {logger}") == 1, ended.stderr
    assert "No space left" in ended.stderr
    Store(tmp_path / "run").checkpoints()[-1].verify()


def assert_refused(directory: Path, why: str) -> None:
    """Checks that a fit that saves there fails before a step is compiled."""
    training_loop = small.training_loop(callbacks=[jl.callbacks.Checkpoint(directory)])
    with counted_compiles() as counts, pytest.raises(CheckpointError) as raised:
        training_loop.fit(small.model(), 1)
    assert f"checkpoint: {directory} cannot be written: {why}" in str(raised.value)
    assert "Give a directory that can be" in str(raised.value)
    assert not any("step" in name for name in counts), counts


def test_a_directory_that_cannot_be_written_is_an_error_before_a_step_is_compiled(mounted: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    assert_refused(tmp_path / "file" / "run", "[Errno 20]")
    assert (tmp_path / "file").read_text() == "mine"
    assert_refused(mounted("ro,size=1m") / "run", "[Errno 30]")


def test_a_directory_whose_place_is_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    assert_refused(tmp_path / "run", "[Errno 17]")
    assert (tmp_path / "run").read_text() == "mine"
