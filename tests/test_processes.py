"""Several processes in a test: they know of each other, and none outlives its time."""

import time

import pytest

from tests.processes import check_all_ended_well, run_on_processes

SUM = """
    import numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    sharding = NamedSharding(Mesh(np.array(jax.devices()), ("data",)), PartitionSpec("data"))
    values = jax.make_array_from_callback((8,), sharding, lambda part: np.arange(8.0, dtype=np.float32)[part])
    print(jax.process_index(), jax.local_device_count(), float(jax.jit(jax.numpy.sum)(values)), sys.argv[1:])
"""


def test_processes_compute_together() -> None:
    ran = run_on_processes(SUM, arguments=["given"])
    check_all_ended_well(ran)
    assert [one.stdout.split() for one in ran] == [["0", "4", "28.0", "['given']"], ["1", "4", "28.0", "['given']"]]


@pytest.mark.slow
def test_a_process_that_waits_for_ever_is_killed_and_what_it_wrote_is_kept() -> None:
    begin = time.monotonic()
    ran = run_on_processes("import time\nprint('here', flush=True)\ntime.sleep(600)", timeout=8)
    assert time.monotonic() - begin < 30
    assert [(one.returncode, one.stdout) for one in ran] == [(-9, "here\n")] * 2
