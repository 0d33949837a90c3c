"""Machines that are not there, by name. What needs a compiler of theirs is skipped where that is not installed."""

import jax
import pytest

import jaxloop as jl
from jaxloop.topology import topology_devices
from tests import small
from tests.compilers import installed, run_compiling
from tests.devices import run_on_devices


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


def test_where_its_compiler_cannot_be_imported_the_extra_to_install_is_named():
    run_on_devices(
        """
import sys
for module in ("libtpu", "jax_plugins.xla_cuda12", "jax_plugins.xla_cuda13"):
    sys.modules[module] = None  # an import of it fails
import jaxloop as jl

for name, extra in (("v5e:2x4", "tpu"), ("h100", "cuda")):
    try:
        jl.topology(name)
    except ImportError as error:
        assert f'pip install "jaxloop[{extra}]"' in str(error) and "Only compiling ahead" in str(error), error
    else:
        raise AssertionError(name)
""",
        1,
    )


@pytest.fixture
def not_there(monkeypatch):
    """Makes this machine say that it is not there."""
    monkeypatch.setattr(jl.Placement, "is_there", False)


@pytest.mark.parametrize(
    "run",
    [
        lambda loop, on: loop.fit(small.model(), 1, on=on),
        lambda loop, on: loop.start(small.model(), epochs=1, on=on),
        lambda loop, on: loop.evaluate(small.model(), jl.in_batches(small.samples(8), 4), on=on),
        lambda loop, on: loop.predict(small.model(), small.samples(8)[0], on=on),
        lambda loop, on: jl.find_learning_rate(loop, small.model(), on=on),
        lambda loop, on: jl.benchmark(loop, small.model(), on=on),
    ],
    ids=["fit", "start", "evaluate", "predict", "find_learning_rate", "benchmark"],
)
def test_on_a_machine_that_is_not_there_nothing_runs_and_nothing_is_put(run, not_there):
    arrays = len(jax.live_arrays())
    with (
        jax.transfer_guard("disallow"),
        pytest.raises(ValueError, match=r"on: a machine that is not there can only be compiled for; got cpu:0 \(cpu\)"),
    ):
        run(small.training_loop(), jl.Placement(jax.devices("cpu")[0]))
    assert len(jax.live_arrays()) == arrays


def test_this_machine_is_there():
    assert jl.Placement(jax.devices("cpu")[0]).is_there
    assert jl.data_parallel().is_there


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


SCRIPT = """
import io, sys
import jax, numpy as np, optax
from flax import nnx
from jax.sharding import Mesh, PartitionSpec as P
import jaxloop as jl
sys.path.insert(0, ".")
from tests import small

class Net(nnx.Module):
    def __init__(self, rngs):
        self.wide, self.narrow = nnx.Linear(64, 256, rngs=rngs), nnx.Linear(256, 32, rngs=rngs)

    def __call__(self, x):
        return self.narrow(nnx.relu(self.wide(x)))

def model():
    return Net(nnx.Rngs(0))

def training_loop(**changes):
    data = small.samples(256, features=64, classes=32)
    return small.training_loop(**{
        "training": jl.TrainingEpochs(data, 64),
        "validation": jl.in_batches(small.samples(40, features=64, classes=32), 32),
        "optimizer": optax.inject_hyperparams(optax.adamw)(learning_rate=0.0),
        "callbacks": [
            jl.callbacks.learning_rate_scheduler(jl.make_schedule(jl.one_cycle(0.1))),
            jl.callbacks.clip_by_global_norm(1.0),
            jl.callbacks.ema(0.9, evaluate=True),
            jl.callbacks.early_stopping(restore_best=True),
            jl.callbacks.stop_on_non_finite(),
        ],
        "steps_per_dispatch": 2,
    } | changes)

parameters = 4 * (64 * 256 + 256 + 256 * 32 + 32)
matrices = 4 * (64 * 256 + 256 * 32)
"""


def test_a_training_compiles_for_a_slice_data_parallel_with_one_all_reduce_a_step():
    run_compiling(
        SCRIPT
        + """
place = jl.topology("v5e:2x4")
assert not (place.is_there or place.several_processes or place.is_cpu)
assert place.writes and place.parts == 8
assert jl.topology("v5e:16x16").device.platform == "tpu" and not jl.topology("v5e:16x16").several_processes
arrays = len(jax.live_arrays())
with jax.transfer_guard("disallow"):
    compiled = training_loop().compile(model, on=place)
assert len(jax.live_arrays()) == arrays
step = compiled.training
assert step.name == "training_step x2" and step.device_kind == "TPU v5 lite" and step.fits
assert step.arguments["parameters"] == parameters and step.arguments["optimizer"] >= 2 * parameters
assert sum(one.count for one in step.collectives if one.kind == "all-reduce") == 1, step.collectives
assert {one.kind for one in step.collectives} == {"all-reduce"}, step.collectives
assert sum(one.bytes for one in step.collectives) >= parameters
assert compiled.validation.collectives
""",
        "tpu",
    )


def test_a_training_compiles_for_a_slice_fully_sharded_and_over_a_mesh_and_is_explained():
    run_compiling(
        SCRIPT
        + """
devices = jl.topology("v5e:2x4").mesh.devices.flat
sharded = jl.fully_sharded(devices)
step = training_loop().compile(model, on=sharded).training
assert matrices / 8 <= step.arguments["parameters"] <= matrices / 8 + 4 * (256 + 32), step.arguments
assert any(one.kind == "all-gather" for one in step.collectives), step.collectives

mesh = Mesh(np.array(devices).reshape(4, 2), ("data", "model"))
halves = jl.Placement(mesh, lambda path, leaf: P(None, "model") if leaf.ndim == 2 else P())
step = training_loop(validation=None, callbacks=[]).compile(model(), on=halves).training
assert step.arguments["parameters"] == matrices / 2 + 4 * (256 + 32), step.arguments

file = io.StringIO()
jl.explain(training_loop(steps_per_dispatch="auto"), model, on=sharded, file=file)
text = file.getvalue()
assert "FLOPs on each device; 4 of them, which divide the phase, make a dispatch for a tpu" in text, text
assert "on 8 devices (TPU v5 lite): data=8; the batch by data" in text, text
assert "of each device: 2 divided by data" in text, text
found = jl.largest_batch(training_loop(validation=None, callbacks=[]), model, on=sharded, limit=4 * 10**6, most=1024)
assert found % 8 == 0 and found >= 8, found

for run in (jl.TrainingLoop.fit, jl.TrainingLoop.start):
    try:
        run(training_loop(), model, epochs=1, on=sharded)
    except ValueError as error:
        assert "on: a machine that is not there can only be compiled for; got 8 devices (TPU v5 lite)" in str(error)
    else:
        raise AssertionError
""",
        "tpu",
    )


def test_a_training_compiles_for_a_card():
    run_compiling(
        SCRIPT
        + """
step = training_loop().compile(model, on=jl.topology("h100")).training
assert step.device_kind == "NVIDIA H100 80GB HBM3" and step.fits and step.collectives == (), step
assert step.arguments["parameters"] == parameters
""",
        "cuda",
    )
