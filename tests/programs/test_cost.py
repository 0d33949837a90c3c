"""What a compiled program takes of a device, against sums by hand."""

import math

import jax
import jax.numpy as jnp
import pytest

from jaxloop.programs.cost import Estimate, bytes_on_one_device, estimate, peak_of
from tests.compilers import run_compiling
from tests.devices import run_on_devices


def test_arguments_outputs_and_what_is_donated_are_those_by_hand():
    def function(kept, given):
        return given + kept.sum(), kept[:16]

    kept, given = jnp.ones(512), jnp.ones((256, 4))
    found = estimate(jax.jit(function, donate_argnums=1).lower(kept, given).compile())
    assert found.device_kind == "cpu"
    assert found.memory["arguments"] == 4 * (512 + 1024)
    assert found.memory["outputs"] >= 4 * (1024 + 16)  # and a pointer to each
    assert found.memory["aliased"] == 4 * 1024
    assert found.flops == pytest.approx(512 + 1024, rel=0.01)
    assert found.seconds is None


def test_a_temporary_is_counted():
    """The product of two matrices is only needed to take its sine, which cannot be fused into it."""

    def function(x):
        return jnp.sin(x @ x) @ x

    found = estimate(jax.jit(function).lower(jnp.ones((256, 256))).compile())
    assert found.memory["temporaries"] >= 4 * 256 * 256
    assert found.peak == peak_of(found.memory) >= 3 * 4 * 256 * 256


def test_the_peak_counts_what_is_aliased_once():
    memory = {"arguments": 100, "outputs": 60, "aliased": 50, "temporaries": 7, "code": 3}
    assert peak_of(memory) == 100 + 60 - 50 + 7 + 3


@pytest.mark.parametrize(
    ("kind", "gibibytes", "fits"),
    [("TPU v5 lite", 15, True), ("TPU v5 lite", 17, False), ("NVIDIA H100 80GB HBM3", 70, True), ("cpu", 1, None)],
)
def test_whether_it_fits_is_asked_of_the_device(kind, gibibytes, fits):
    assert Estimate(kind, {"arguments": gibibytes * 2**30}).fits is fits


def test_of_a_backend_that_does_not_tell_nothing_is_known():
    class Silent:
        input_shardings = output_shardings = ()

        def cost_analysis(self):
            return None

        def memory_analysis(self):
            return None

    found = estimate(Silent())
    assert (found.device_kind, found.memory, found.peak, found.fits) == ("", {}, None, None)
    assert math.isnan(found.flops)
    assert math.isnan(found.bytes_accessed)


def test_a_negative_estimate_of_time_is_none():
    class Unsure:
        input_shardings = output_shardings = ()

        def __init__(self, seconds):
            self.seconds = seconds

        def cost_analysis(self):
            return {"optimal_seconds": self.seconds}

        def memory_analysis(self):
            return None

    assert estimate(Unsure(-0.9)).seconds is None
    assert estimate(Unsure(0.25)).seconds == 0.25


def test_what_a_program_does_not_use_takes_nothing():
    tree = {"used": jnp.ones(8), "unused": jnp.ones(32), "none": None}
    compiled = jax.jit(lambda tree: tree["used"] + 1).lower(tree).compile()
    assert bytes_on_one_device(tree, compiled.input_shardings[0][0]) == 32


def test_a_key_takes_the_bytes_of_its_words():
    key = jax.random.key(0)
    assert bytes_on_one_device({"key": key}, {"key": key.sharding}) == 8


def test_on_several_devices_it_is_what_one_of_them_has():
    run_on_devices(
        """
import jax, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from jaxloop.programs.cost import bytes_on_one_device, estimate

mesh = Mesh(np.array(jax.devices()), ("data",))
whole, rows = NamedSharding(mesh, P()), NamedSharding(mesh, P("data"))
tree = {"kernel": jax.ShapeDtypeStruct((128, 4), np.float32, sharding=whole)}
batch = jax.ShapeDtypeStruct((64, 128), np.float32, sharding=rows)
compiled = jax.jit(lambda tree, batch: batch @ tree["kernel"], out_shardings=rows).lower(tree, batch).compile()
kernel, batches = (bytes_on_one_device(tree, place) for tree, place in zip((tree, batch), compiled.input_shardings[0]))
assert (kernel, batches) == (4 * 128 * 4, 4 * 8 * 128)
assert estimate(compiled).memory["arguments"] == kernel + batches
""",
        8,
    )


def test_for_a_tpu_it_tells_seconds_and_that_it_fits():
    run_compiling(
        """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import SingleDeviceSharding
from jaxloop.programs.cost import estimate
from jaxloop.topology import topology_devices

place = SingleDeviceSharding(topology_devices("v5e:1x1")[0])
x = jax.ShapeDtypeStruct((4096, 4096), np.float32, sharding=place)
found = estimate(jax.jit(lambda x: jnp.tanh(x @ x) @ x, out_shardings=place).lower(x).compile())
assert found.device_kind == "TPU v5 lite" and found.capacity == 2**34
assert found.fits is True and 2 * 4 * 2**24 <= found.peak < 2**30, found
assert 1e-4 < found.seconds < 1e-1, found  # 2.7e11 FLOPs
""",
        "tpu",
    )
