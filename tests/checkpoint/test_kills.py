"""A kill at any moment leaves what was committed, whole."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax.numpy as jnp
import pytest

from jaxloop.checkpoint.journal import Journal
from jaxloop.checkpoint.store import Store

KILLED = """
import sys
import jax, jax.numpy as jnp
from jaxloop.checkpoint.leaves import flattened
from jaxloop.checkpoint.store import Store
from jaxloop.checkpoint.writer import Writer

checkpoints = Store(sys.argv[1]).checkpoints()
begin = checkpoints[-1].ordinal if checkpoints else None
journals = checkpoints[-1].manifest()["journals"] if checkpoints else None
writer = Writer(sys.argv[1], keep=2, going_on_from=begin, journals=journals)
print("ready", flush=True)
for index in range(1000):
    number = writer._ordinal
    leaves = [jnp.full(50_000, number, jnp.float32), jnp.arange(10) + number]
    writer.write(flattened(leaves), {"step": number}, appended={"rows": b"%08d" % number}, wait=index == 0)
    if index == 0:
        print("saved", flush=True)
"""


@pytest.mark.parametrize(
    "kills", [pytest.param(4, marks=pytest.mark.slow), pytest.param(20, marks=pytest.mark.exhaustive)]
)
def test_a_kill_at_any_moment_leaves_what_was_committed(tmp_path: Path, kills: int) -> None:
    """Kills one after the other in one directory; each time the newest checkpoint is whole, and never an older one."""
    newest = 0
    for kill in range(kills):
        root = Path(__file__).parents[2]
        with subprocess.Popen(
            [sys.executable, "-c", KILLED, str(tmp_path)],
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(root)},
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            if kill == 0:
                assert process.stdout.readline() == b"saved\n"
            time.sleep(0.2 + 0.133 * (kill % 10))
            process.send_signal(signal.SIGKILL)
            process.wait(timeout=60)
        checkpoints = Store(tmp_path).checkpoints()
        assert checkpoints
        for saved in checkpoints:
            first, second = saved.arrays()
            number = saved.manifest()["about"]["step"]
            assert (first == number).all()
            assert (second == jnp.arange(10) + number).all()
            rows = Journal.read(tmp_path / "rows.journal", *saved.manifest()["journals"]["rows"])
            assert rows[-8:] == b"%08d" % number
        assert checkpoints[-1].ordinal >= newest
        newest = checkpoints[-1].ordinal
    assert newest > 1
