"""Machines that are not there, by name. What needs a compiler of theirs is skipped where that is not installed."""

import pytest

from jaxloop.topology import topology_devices
from tests.compilers import installed, run_compiling


@pytest.mark.parametrize(
    "name",
    [
        "",
        "v5e",
        "v5e:",
        "v5e:4",
        "v5e:2x2x2",
        "v5p:2x2",
        "v5e:0x2",
        "v5e:2x-2",
        "v5e:32x2",
        "v4:2x2x1",
        "h100:",
        "h200",
    ],
)
def test_a_machine_that_there_is_not_is_refused_with_a_list_of_those_that_there_are(name):
    message = rf'topology: there is no machine \'{name}\'; there are slices of TPUs, .* "v5e:2x4" \(at most 16x16\)'
    with pytest.raises(ValueError, match=message):
        topology_devices(name)


def test_cards_that_fill_no_machines_are_refused():
    with pytest.raises(
        ValueError, match=r"more than 8 cards are machines of 8 each, got 'h100:12'\. Give a multiple of 8"
    ):
        topology_devices("h100:12")


@pytest.mark.parametrize("name", [None, 8, ("v5e", 2, 2)])
def test_what_is_no_name_is_refused(name):
    with pytest.raises(TypeError, match='`name` must be a name such as "v5e:2x4", got'):
        topology_devices(name)


@pytest.mark.parametrize(("name", "extra"), [("v5e:2x2", "tpu"), ("h100:1", "cuda"), ("a100:8", "cuda")])
def test_without_its_compiler_the_extra_to_install_is_named(name, extra):
    if installed(extra):
        pytest.skip("the compiler is installed")
    with pytest.raises(ImportError, match=rf"(?s){name}.*is not installed. Write pip install \"jaxloop\[{extra}\]\""):
        topology_devices(name)


@pytest.mark.parametrize("platforms", ["cpu", ""])
def test_slices_of_tpus(platforms):
    run_compiling(
        """
import jax
from jaxloop.topology import topology_devices

def told(name):
    devices = topology_devices(name)
    return len(devices), devices[0].device_kind, devices[0].platform

assert told("v5e:1x1") == (1, "TPU v5 lite", "tpu")
assert told("v5e:2x4") == (8, "TPU v5 lite", "tpu")
assert told("v5e:16x16") == (256, "TPU v5 lite", "tpu")
assert told("v5p:2x2x2") == (8, "TPU v5", "tpu")
assert told("v6e:4x4") == (16, "TPU v6 lite", "tpu")
assert told("v3:2x2") == (8, "TPU v3", "tpu")
assert told("tpu7x:2x2x1") == (8, "TPU7x", "tpu")
assert all(one is other for one, other in zip(topology_devices("v5e:2x4"), topology_devices("V5E:2x4"), strict=True))
assert jax.devices()[0].platform == jax.default_backend() == "cpu"
assert jax.numpy.ones(3).sum() == 3
try:
    topology_devices("v5e:3x3")
except ValueError as error:
    assert "libtpu knows no machine 'v5e:3x3'" in str(error) and "not divisible" in str(error), error
else:
    raise AssertionError
""",
        "tpu",
        JAX_PLATFORMS=platforms,
    )


@pytest.mark.parametrize("platforms", ["cpu", ""])
def test_cards(platforms):
    run_compiling(
        """
import jax
from jaxloop.topology import topology_devices

def told(name):
    devices = topology_devices(name)
    return len(devices), devices[0].device_kind, devices[0].platform, len({one.process_index for one in devices})

assert told("h100") == told("h100:1") == (1, "NVIDIA H100 80GB HBM3", "gpu", 1)
assert told("h100:8") == (8, "NVIDIA H100 80GB HBM3", "gpu", 1)
assert told("h100:16") == (16, "NVIDIA H100 80GB HBM3", "gpu", 2)
assert told("a100:4") == (4, "NVIDIA A100-SXM4-80GB", "gpu", 1)
assert topology_devices("h100")[0] is topology_devices("H100:1")[0]
assert jax.devices()[0].platform == jax.default_backend() == "cpu"
""",
        "cuda",
        JAX_PLATFORMS=platforms,
    )


@pytest.mark.parametrize(("name", "extra"), [("v5e:2x2", "tpu"), ("h100:4", "cuda")])
def test_a_step_compiles_for_them_and_its_memory_and_collectives_are_told(name, extra):
    run_compiling(
        f"""
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from jaxloop.programs.collectives import collectives_of
from jaxloop.topology import topology_devices

mesh = Mesh(np.array(topology_devices({name!r})), ("data",))
whole, rows = NamedSharding(mesh, P()), NamedSharding(mesh, P("data"))

def step(kernel, batch):
    return kernel - jax.grad(lambda kernel: jnp.mean((batch @ kernel) ** 2))(kernel)

kernel = jax.ShapeDtypeStruct((512, 512), np.float32, sharding=whole)
batch = jax.ShapeDtypeStruct((64, 512), np.float32, sharding=rows)
compiled = jax.jit(step, out_shardings=whole).lower(kernel, batch).compile()
(found,) = collectives_of(compiled.as_text())
assert (found.kind, found.count, found.bytes) == ("all-reduce", 1, 512 * 512 * 4), found
assert compiled.memory_analysis().argument_size_in_bytes == 4 * 512 * 512 + 4 * 16 * 512
""",
        extra,
    )


def test_a_second_process_is_told_that_libtpu_serves_one():
    run_compiling(
        """
import subprocess, sys
from jaxloop.topology import topology_devices

topology_devices("v5e:2x2")
script = "from jaxloop.topology import topology_devices; topology_devices('v5e:2x2')"
run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
assert run.returncode == 1
assert "RuntimeError: topology: 'v5e:2x2' needs libtpu, which serves one process at a time" in run.stderr, run.stderr
""",
        "tpu",
    )
