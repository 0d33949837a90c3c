"""How much memory is left: by the files of Linux, limits of a process, and what devices tell."""

import subprocess
import sys

import jax
import pytest

from jaxloop import memory_limits
from jaxloop.memory_limits import Limit, limits_of


class Device:
    """A device that tells so much; None for one that is not here."""

    def __init__(self, platform, kind, told):
        self.platform, self.device_kind, self.told = platform, kind, told

    def memory_stats(self):
        if self.told is None:
            raise jax.errors.JaxRuntimeError("INVALID_ARGUMENT: only supported for addressable PjRt devices.")
        return self.told


def test_a_device_that_is_here_tells_its_memory():
    assert limits_of(Device("gpu", "NVIDIA H100 80GB HBM3", {"bytes_limit": 60 * 10**9})) == [Limit(60 * 10**9)]


@pytest.mark.parametrize("told", [None, {}])
def test_of_one_that_is_not_here_or_does_not_tell_the_data_sheet_does(told):
    assert limits_of(Device("tpu", "TPU v5 lite", told)) == [Limit(2**34)]
    assert limits_of(Device("tpu", "TPU v99", told)) == []


def test_of_a_cpu_it_is_what_the_machine_has_left():
    limits = limits_of(jax.devices("cpu")[0])
    assert limits
    assert all(0 < limit.bytes < 2**50 for limit in limits)


def test_a_control_group_leaves_what_it_does_not_use(tmp_path, monkeypatch):
    (tmp_path / "memory.max").write_text("5000\n")
    (tmp_path / "memory.current").write_text("1200\n")
    monkeypatch.setattr(memory_limits, "_CGROUPS", tmp_path)
    assert Limit(3800) in limits_of(jax.devices("cpu")[0])
    (tmp_path / "memory.max").write_text("max\n")
    assert Limit(3800) not in limits_of(jax.devices("cpu")[0])


def test_limits_of_a_process_count_what_is_reserved():
    script = """
import resource, jax
from jaxloop.memory_limits import limits_of
device = jax.devices("cpu")[0]
before = len(limits_of(device))
used = {line.split()[0]: int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.endswith("kB\\n")}
resource.setrlimit(resource.RLIMIT_DATA, (used["VmData:"] + 10**9,) * 2)
*others, limit = limits_of(device)
assert len(others) == before and limit.reserved and abs(limit.bytes - 10**9) < 10**8, limit
"""
    if not sys.platform.startswith("linux"):
        pytest.skip("only Linux has these files")
    subprocess.run([sys.executable, "-c", script], check=True)
