"""The largest batch that fits: against sums by hand, and against what runs where memory is limited."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxloop as jl
from jaxloop.largest_batch import _Search, _Trial
from jaxloop.memory_limits import Limit
from tests import small
from tests.compilers import run_compiling
from tests.compiling import counted_compiles, steps_in
from tests.devices import run_on_devices


def search(bytes_of, limits, *, own=4, parts=1):
    """A search in which a size takes `bytes_of(size)`, and which sizes it has tried."""

    class Asked(_Search):
        def _tried(self, batch_size):
            taken = bytes_of(batch_size)
            return _Trial({}) if taken is None else _Trial({"arguments": taken})

    class Fit:
        batch_size = own

    return Asked(Fit(), "tpu", parts, limits)  # pyright: ignore[reportArgumentType] a stand-in


@pytest.mark.parametrize("limit", [110, 111, 119, 1_000, 12_345, 10**6])
def test_it_is_the_largest_of_all_in_few_trials(limit):
    asked = search(lambda size: 100 + 10 * size, [Limit(limit)])
    assert asked.largest(2**20) == (limit - 100) // 10
    assert len(asked.trials) <= 12


@pytest.mark.parametrize(
    "bytes_of",
    [
        lambda size: size**2,
        lambda size: 1000 * int(np.log2(size) + 1),
        lambda size: 512 * -(-size // 128),
        lambda size: None if size > 777 else size,
    ],
    ids=["square", "logarithm", "padded", "given up"],
)
def test_it_is_the_largest_though_memory_does_not_grow_in_a_line(bytes_of):
    most = 2**14
    fitting = [size for size in range(1, most + 1) if (bytes_of(size) or 10**9) <= 9_000]
    asked = search(bytes_of, [Limit(9_000)])
    assert asked.largest(most) == fitting[-1]
    assert len(asked.trials) <= 30


def test_all_limits_hold():
    asked = search(lambda size: 10 * size, [Limit(5_000), Limit(3_000), Limit(4_000)])
    assert asked.largest(2**20) == 300


def test_where_reserved_memory_counts_temporaries_count_twice():
    trial = _Trial({"arguments": 10, "temporaries": 45})
    assert trial.of(Limit(100)) == 0.55
    assert trial.of(Limit(100, reserved=True)) == 1.0


def test_no_more_than_asked_for():
    training_loop = small.training_loop(validation=None)
    assert jl.largest_batch(training_loop, small.model(), limit=2**30, most=100) == 100


def test_a_step_over_it_takes_no_more_than_the_limit_and_over_one_example_more_it_does():
    limit = 10**6
    found = jl.largest_batch(wide(64), wide_model(), limit=limit)
    taken = [told(wide(size)) for size in (found, found + 1)]
    assert taken[0] <= limit < taken[1]


def wide_model():
    kernels = [np.zeros((64, 64), np.float32) for _ in range(4)]

    def apply(params, state, input, *, training, key):
        for kernel in params:
            input = jnp.tanh(input @ kernel)
        return input, state

    return jl.Model(apply, kernels, {})


def wide(batch_size):
    data = np.zeros((batch_size, 64), np.float32), np.zeros((batch_size, 64), np.float32)
    loss_fn = jl.losses.mean_squared_error
    return jl.TrainingLoop(
        jl.TrainingEpochs(data, batch_size),
        optimizer=optax.sgd(0.1),
        loss_fn=loss_fn,
        progress=False,
        steps_per_dispatch=1,
    )


def told(training_loop, place=None):
    """What `compile` tells, with a batch that waits, and with what XLA does not tell."""
    step = training_loop.compile(wide_model(), on=place).training
    taken = step.peak + step.arguments["batch"]
    return taken + int(taken * 0.15)


def test_nothing_runs_and_the_training_loop_keeps_nothing():
    training_loop = small.training_loop(validation=None)
    arrays = len(jax.live_arrays())
    with counted_compiles() as counts:
        jl.largest_batch(training_loop, small.model(), limit=10**5, most=64)
    assert set(steps_in(counts)) == {"jit(training_step)"}
    assert len(jax.live_arrays()) == arrays
    assert len(training_loop.setup.programs) == 0


def test_if_not_even_the_smallest_fits_the_sum_is_told():
    with pytest.raises(
        ValueError, match=r"not even a batch of 1 fits the 0.0001 MB of a device: arguments .* MB in all"
    ):
        jl.largest_batch(small.training_loop(validation=None), small.model(), limit=100)


def test_data_without_an_axis_of_examples_are_refused():
    graphs = {"nodes": np.zeros((5, 4), np.float32), "edges": np.zeros((7, 2), np.int32)}, np.zeros(2, np.int32)
    training_loop = small.training_loop(training=[[graphs]], validation=None)
    with pytest.raises(TypeError, match="must all count examples along their first axis"):
        jl.largest_batch(training_loop, small.model())


def test_steps_without_data_are_refused():
    training_loop = small.training_loop(training=jl.steps(3), validation=None)
    with pytest.raises(TypeError, match="must all count examples along their first axis"):
        jl.largest_batch(training_loop, small.model())


def test_what_is_no_training_loop_is_refused():
    with pytest.raises(TypeError, match="`training_loop` must be a TrainingLoop, got Model"):
        jl.largest_batch(small.model(), small.model())  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(("name", "value"), [("limit", 0), ("limit", 1.5), ("most", -1), ("most", True)])
def test_arguments_that_are_no_whole_numbers_are_refused(name, value):
    with pytest.raises(ValueError, match=f"largest_batch: `{name}` must be a whole number of at least 1"):
        jl.largest_batch(small.training_loop(), small.model(), **{name: value})


def test_an_error_of_the_model_says_which_size_was_tried():
    def apply(params, state, input, *, training, key):
        return input.reshape(4, -1) @ params["kernel"], state

    model = jl.Model(apply, {"kernel": np.zeros((4, 3), np.float32)}, {})
    with pytest.raises(TypeError) as caught:
        jl.largest_batch(small.training_loop(validation=None), model)
    assert caught.value.__notes__[-1] == "jaxloop: while largest_batch tried a batch of 1"


def test_devices_of_a_cpu_share_its_memory():
    run_on_devices(
        """
import jax
from jaxloop.largest_batch import _limits_of
from jaxloop.placement import resolve
one = min(_limits_of(resolve("cpu:3"))).bytes
assert one > 0
""",
        4,
    )


def test_on_a_tpu_that_is_not_there():
    run_compiling(
        """
import sys
import jaxloop as jl
from jaxloop.topology import topology_devices
sys.path.insert(0, ".")
from tests.test_largest_batch import wide, wide_model
place = topology_devices("v5e:1x1")[0]
small, large = (jl.largest_batch(wide(64), wide_model(), on=place, limit=limit) for limit in (10**7, 10**8))
assert 100 < small < large, (small, large)
""",
        "tpu",
    )


SCRIPT = """
import resource, sys
import jax.numpy as jnp, numpy as np, optax
import jaxloop as jl

def apply(params, state, input, *, training, key):
    for kernel in params["kernels"]:
        input = jnp.tanh(input @ kernel)
    return input @ params["last"], state

def training_loop(batch_size, steps=6):
    data = np.zeros((batch_size * steps, 256), np.float32), np.zeros(batch_size * steps, np.int32)
    return jl.TrainingLoop(
        jl.TrainingEpochs(data, batch_size), optimizer=optax.adamw(1e-3),
        loss_fn=jl.losses.softmax_cross_entropy, progress=False, steps_per_dispatch=1,
    )

random = np.random.default_rng(0)
kernels = [random.normal(size=(256, 256)).astype(np.float32) / 16 for _ in range(12)]
model = jl.Model(apply, {"kernels": kernels, "last": np.zeros((256, 3), np.float32)}, {})
training_loop(8).fit(model, 1)  # the backend has its threads then
batch_size = int(sys.argv[1])
asked = training_loop(batch_size or 8)
used = {line.split()[0]: int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.endswith("kB\\n")}
resource.setrlimit(resource.RLIMIT_DATA, (used["VmData:"] + 600_000_000,) * 2)
if batch_size:
    asked.fit(model, 2)
else:
    print(jl.largest_batch(asked, model))
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux limits memory in this way")
def test_where_memory_is_limited_nine_tenths_of_it_run_and_a_tenth_more_does_not():
    def ran(batch_size):
        return subprocess.run(
            [sys.executable, "-c", SCRIPT, str(batch_size)], capture_output=True, text=True, check=False
        )

    found = int(ran(0).stdout)
    assert found > 1000
    less, more = ran(int(0.9 * found)), ran(int(1.15 * found))
    assert less.returncode == 0, less.stderr
    assert more.returncode != 0
    assert "Out of memory" in more.stderr, more.stderr


@pytest.mark.slow
def test_over_several_devices_each_has_its_share_of_the_batch_and_of_what_is_divided():
    run_on_devices(
        """
import sys
import jaxloop as jl
sys.path.insert(0, ".")
from tests.test_largest_batch import told, wide, wide_model

limit, found = 10**6, []
for place in (jl.data_parallel(), jl.fully_sharded()):
    size = jl.largest_batch(wide(64), wide_model(), on=place, limit=limit)
    assert size % 8 == 0, size
    assert told(wide(size), place) <= limit < told(wide(size + 8), place), size
    found.append(size)
assert jl.largest_batch(wide(64), wide_model(), on="cpu:0", limit=limit) < found[0] / 4 and found[0] < found[1], found
""",
        8,
    )
