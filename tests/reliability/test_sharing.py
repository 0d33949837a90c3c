"""One folder, and more than one who wants it: two fits at once, and other numbers of devices."""

import dataclasses
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.devices import run_on_devices
from tests.reliability.outcomes import differences, outcome
from tests.reliability.running import Ended, at
from tests.reliability.training import Options

LOCKED = "another fit writes"


def with_another(train: Any, folder: Path, options: Options, *, point: str, other: Options) -> tuple[Ended, Ended]:
    """Runs a child, and another from beginning to end while the first stands still at a point."""
    ended: list[Ended] = []

    def decide(announced: str) -> None:
        if announced == point and not ended:
            ended.append(train(folder.parent / "other", other))

    first = train(folder, options, decide=decide)
    return first, ended[0]


@pytest.mark.parametrize(
    "resumes", [pytest.param(False, marks=pytest.mark.slow), pytest.param(True, marks=pytest.mark.exhaustive)]
)
def test_of_two_fits_into_one_folder_the_second_is_refused_and_the_first_is_not_disturbed(
    train: Any, uninterrupted: Any, tmp_path: Path, resumes: bool
) -> None:
    """Both fresh, or both resumed at once from what a killed run has left."""
    folder = tmp_path / "run"
    options = Options(every=1)
    if resumes:
        options = Options(every=1, resume=True)
        train(folder, options, decide=at("step 9")).expect(-signal.SIGKILL)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "checkpoints").symlink_to(folder / "checkpoints")
    other = dataclasses.replace(options, announces="nothing")
    if not resumes:  # else another run would be refused for that
        other = dataclasses.replace(other, callbacks=())
    first, second = with_another(train, folder, options, point="step 12", other=other)
    second.expect(1)
    assert "CheckpointError" in second.stderr
    assert LOCKED in second.stderr
    first.expect(0)
    assert differences(outcome(folder), uninterrupted(Options())) == []


SAVE = """
import sys, jax, numpy as np
from pathlib import Path
import jaxloop as jl
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxloop.checkpoint.leaves import flattened, rebuilt
from jaxloop.checkpoint.store import Store
from jaxloop.checkpoint.writer import Writer
from tests import small

folder = Path({folder!r})
data = jl.TrainingEpochs(small.samples(16, features=8, classes=16), 4)
loop = small.training_loop(training=data, validation=None).start(small.model(features=8, classes=16), epochs=1, seed=5)
devices = jax.devices()

def divided(leaf, count):
    axes = ["x" if size % count == 0 and size else None for size in leaf.shape]
    first = axes.index("x") if "x" in axes else None
    spec = PartitionSpec(*["x" if place == first else None for place in range(len(axes))])
    return NamedSharding(Mesh(np.array(devices), ("x",)), spec)

def bits(arrays):
    return b"".join(np.asarray(array).tobytes() for array in arrays)

flat = flattened(loop)
"""
WRITE = """
arrays = [jax.device_put(array, divided(array, 4)) for array in flat.arrays]
assert sum(not array.sharding.is_fully_replicated for array in arrays) >= 2
writer = Writer(folder / "run", keep=1)
writer.write(type(flat)(arrays, flat.described), {"step": 0}, wait=True)
writer.close()
(folder / "bits").write_bytes(bits(arrays))
"""
READ = """
saved, = Store(folder / "run").checkpoints()
shardings = [divided(array, len(devices)) for array in flat.arrays]
for wanted in (shardings, None):
    arrays = saved.arrays(wanted)
    assert bits(arrays) == (folder / "bits").read_bytes()
    assert wanted is None or [array.sharding for array in arrays] == wanted
    small.assert_trees_equal(rebuilt(saved.manifest()["leaves"], arrays, loop), loop)
assert len(devices) == 1 or sum(not sharding.is_fully_replicated for sharding in shardings) >= 2
"""


@pytest.mark.slow
def test_a_loop_on_four_devices_divided_by_hand_is_read_on_one_and_on_eight(tmp_path: Path) -> None:
    begin = SAVE.format(folder=str(tmp_path))
    run_on_devices(begin + WRITE, 4)
    run_on_devices(begin + READ, 1)
    run_on_devices(begin + READ, 8)
