"""Copies between owners: the numbers are those that were given, and no memory is shared."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxloop.placement.moving import copied_to_device, from_host, placed, whole
from tests.devices import run_on_devices


def pointer(array: jax.Array) -> int:
    return array.addressable_shards[0].data.unsafe_buffer_pointer()


def test_a_copy_on_one_device_shares_no_memory_with_what_it_was_made_of():
    device = jax.devices()[0]
    aligned = np.frombuffer(bytearray(4 * 4096 + 64), np.uint8)
    aligned = aligned[-aligned.ctypes.data % 64 :][: 4 * 4096].view(np.float32)  # such memory JAX would take in place
    for given in (aligned, jnp.arange(4096.0), 2.5, np.int32(3), np.arange(3)):
        copy = copied_to_device(given, device)
        assert copy.devices() == {device}
        np.testing.assert_array_equal(copy, given)
        if isinstance(given, jax.Array):
            assert pointer(copy) != pointer(given)
    copy = copied_to_device(aligned, device)
    aligned[:] = 1
    assert not np.asarray(copy).any()


def test_an_array_of_the_host_is_placed_by_default_where_jax_would():
    assert placed(np.arange(3), None).devices() == {jax.devices()[0]}
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    assert placed(np.arange(3), place).sharding == place


def test_dtypes_that_jax_has_not_turned_on_become_those_that_it_has():
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    assert from_host(np.arange(3.0), place).dtype == np.float32
    assert from_host(np.arange(3), place).dtype == np.int32


def test_what_is_whole_is_in_the_hosts_memory():
    for given in (np.arange(3), jnp.arange(3), 3.0):
        assert isinstance(whole(given), np.ndarray)


BEGIN = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from jaxloop.placement.moving import copied_to, copied_to_device, copied_within, from_host, placed, whole

devices = jax.devices()
mesh = Mesh(np.array(devices).reshape(2, 4), ("data", "model"))
everywhere, rows, grid = (NamedSharding(mesh, P(*names)) for names in ((), ("data",), ("data", "model")))
numbers = np.arange(64, dtype=np.float32).reshape(8, 8)
pointers = lambda array: {shard.data.unsafe_buffer_pointer() for shard in array.addressable_shards}
delete = jax.jit(lambda array: array + 1, donate_argnums=0)
"""

ON_THEIR_WAY = """
elsewhere = jax.device_put(numbers, devices[5])
beside = jax.device_put(numbers, NamedSharding(Mesh(np.array(devices[:2]), ("x",)), P("x")))
for given in (numbers, elsewhere, beside):
    for place in (everywhere, rows, grid):
        for directly in (False, True):
            copy = copied_to(given, place, directly=directly)
            assert copy.sharding == place
            assert directly or len(pointers(copy)) == 8, "two devices have one piece of memory"  # never asked of CPUs
            np.testing.assert_array_equal(copy, numbers)
            if isinstance(given, jax.Array):
                assert pointers(copy).isdisjoint(pointers(given))
            delete(copy)
            np.testing.assert_array_equal(given, numbers)

# Also from one device of several to another.
copy = copied_to_device(elsewhere, devices[2])
assert copy.devices() == {devices[2]} and pointers(copy).isdisjoint(pointers(elsewhere))
delete(copy)
np.testing.assert_array_equal(elsewhere, numbers)

# A key lies on each device, of whatever implementation it is.
for impl in ("threefry2x32", "rbg"):
    key = jax.random.key(3, impl=impl)
    for directly in (False, True):
        copy = copied_to(key, everywhere, directly=directly)
        assert copy.dtype == key.dtype and copy.sharding.is_fully_replicated and len(copy.devices()) == 8
        np.testing.assert_array_equal(jax.random.key_data(copy), jax.random.key_data(key))

for place in (everywhere, rows, grid):
    for _ in range(10):  # by chance memory lies so that a CPU can read it in place
        array = from_host(numbers, place)
        assert array.sharding == place and len(pointers(array)) == 8
    np.testing.assert_array_equal(array, numbers)
    assert placed(numbers, place).sharding == place
    found = whole(array)
    assert isinstance(found, np.ndarray)
    np.testing.assert_array_equal(found, numbers)
"""

WITHIN = """
given = [from_host(numbers + index, place) for index, place in enumerate((everywhere, rows, grid))]
given.append(jax.device_put(jax.random.key(0), everywhere))
places = [grid, everywhere, rows, everywhere]
compiled = []
jax.monitoring.register_event_duration_secs_listener(
    lambda name, *_, **__: compiled.append(name) if name.endswith("backend_compile_duration") else None
)
for _ in range(2):
    copies = copied_within(given, places)
    assert [copy.sharding for copy in copies] == places
    for copy, array in zip(copies[:3], given[:3]):
        assert pointers(copy).isdisjoint(pointers(array))
        np.testing.assert_array_equal(copy, array)
        delete(copy)
        np.asarray(array)
assert copied_within([], []) == []
# One program for all, also the second time; each donation has one of its own.
assert len(compiled) <= 1 + 3, compiled
same = copied_within(given[:1], [everywhere])[0]  # at the same place it is a copy too
assert pointers(same).isdisjoint(pointers(given[0]))
"""


def test_arrays_come_from_anywhere_to_any_sharding_in_memory_of_their_own():
    run_on_devices(BEGIN + ON_THEIR_WAY, 8)


def test_arrays_change_their_sharding_on_their_devices_by_one_program():
    run_on_devices(BEGIN + WITHIN, 8)
