"""What `on=` may name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxloop as jl
from jaxloop.placement import default_device, left_unused, naming, resolve
from tests import small
from tests.devices import run_on_devices


def test_the_default_is_the_first_device():
    assert default_device() == jax.devices()[0]


def test_none_is_the_default_device():
    assert resolve(None).device == default_device()


def test_a_device_is_itself():
    device = jax.devices()[-1]
    assert resolve(device).device is device


@pytest.mark.parametrize("on", ["cpu", "cpu:0"])
def test_a_platform_is_its_first_device(on):
    assert resolve(on).device == jax.devices("cpu")[0]


@pytest.mark.parametrize("on", ["abacus", "cpu:99", "cpu:one", "abacus:0", "cpu:-1", ""])
def test_a_device_that_is_not_here_is_refused_with_those_that_are(on):
    with pytest.raises(ValueError, match=rf"there is no device '{on}' here; there are: \w+:0"):
        resolve(on)


@pytest.mark.parametrize("on", [3, ["cpu"]])
def test_what_names_no_device_is_refused(on):
    with pytest.raises(TypeError, match="on: expected a device, a platform name or None, got"):
        resolve(on)


PLACEMENT = resolve(None)


@pytest.mark.parametrize("make", [np.asarray, jnp.asarray], ids=["NumPy", "JAX"])
def test_a_copy_shares_no_memory_with_what_it_is_of(make):
    for _ in range(20):  # whether memory would be shared depends on where NumPy has put it
        original = np.arange(1000, dtype=np.float32)
        given = make(original)
        copy = PLACEMENT.copy(given)
        assert copy.unsafe_buffer_pointer() != np.asarray(given).ctypes.data
        original[:] = -1
        np.testing.assert_array_equal(copy, np.arange(1000))


def test_a_key_is_copied_as_a_key():
    key = jax.random.key(3)
    copy = PLACEMENT.copy(key)
    assert copy.dtype == key.dtype
    np.testing.assert_array_equal(jax.random.key_data(copy), jax.random.key_data(key))


def test_a_user_may_write_into_the_arrays_of_a_model_once_a_loop_was_made_of_it():
    params = {"kernel": np.ones((500, 3), np.float32), "bias": np.zeros(3, np.float32)}
    model = jl.Model(small.apply, params, {"passes": np.int32(0)})
    training_loop = small.training_loop(training=jl.TrainingEpochs(small.samples(12, features=500), 4), validation=None)
    loop = training_loop.start(model, epochs=1)
    params["kernel"][:] = 7
    np.testing.assert_array_equal(loop.model.params["kernel"], np.ones((500, 3)))


SCRIPT = """
import jax, jax.numpy as jnp, numpy as np
import jaxloop as jl
from jaxloop.placement import Placement
from tests import small

one, other = jax.devices()[:2]
assert Placement(one) == Placement(one) != Placement(other) and hash(Placement(one)) == hash(Placement(one))
given = jax.device_put(jnp.arange(1000.0), one)
copy = Placement(other).copy(given)
assert copy.devices() == {other} and copy.unsafe_buffer_pointer() != given.unsafe_buffer_pointer()
jax.block_until_ready(jax.jit(lambda x: x + 1, donate_argnums=0)(copy))
np.testing.assert_array_equal(given, np.arange(1000.0))

model = small.model(features=400).replace(params=jax.device_put(small.model(features=400).params, one))
data = jl.TrainingEpochs(small.samples(12, features=400), 4)
training_loop = small.training_loop(training=data, validation=None)
loops = [training_loop.fit(model, 2, on=place)[0] for place in (other, Placement(other), "cpu:1")]
assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(model.params))
for loop in loops:
    assert {leaf.devices().pop() for leaf in jax.tree.leaves(loop)} == {other}
    small.assert_trees_equal(loop.model, loops[0].model)
"""


def test_a_model_on_one_device_trains_on_another_and_stays_as_it_was():
    run_on_devices(SCRIPT, 2, timeout=300)


UNUSED = """
import jax
import jaxloop as jl
from jaxloop.placement import left_unused
from tests import small

print([left_unused(on) for on in (None, "cpu", "cpu:1", jax.devices()[1], jl.data_parallel())])
jl.TrainingLoop((small.samples(12)), optimizer=__import__("optax").sgd(0.1),
                loss_fn=jl.losses.softmax_cross_entropy).fit(small.model(), 1)
with jax.default_device(jax.devices()[2]):
    print(left_unused(None))
"""


def test_devices_that_nobody_left_out_on_purpose_are_told():
    lines = run_on_devices(UNUSED, 3).splitlines()
    told = "2 more devices are left unused; on=jaxloop.data_parallel() uses all"
    assert lines[0] == str([told, told, None, None, None])
    assert told in lines
    assert lines[-1] == "None"


def test_a_chip_beside_a_cpu_that_was_asked_for_is_told(monkeypatch):
    class Chip:
        platform, device_kind = "gpu", "NVIDIA H100"

    monkeypatch.setattr(naming, "_devices", lambda platform=None: [Chip()] if platform is None else jax.devices("cpu"))
    assert left_unused("cpu") == "1 NVIDIA H100 left unused; leave out on='cpu' to use them"


def test_one_device_leaves_none_unused():
    assert (left_unused(None), left_unused("cpu")) == (None, None)
