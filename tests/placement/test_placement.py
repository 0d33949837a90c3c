"""Placements: of one device here, of several in processes of their own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, PartitionSpec, SingleDeviceSharding

from jaxloop.placement import Placement
from tests.devices import run_on_devices

DEVICE = jax.devices()[0]


def test_one_device_is_a_placement_like_any_other():
    placement = Placement(DEVICE)
    assert placement == Placement(Mesh(np.array([DEVICE]), ("data",)))
    assert hash(placement) == hash(Placement(DEVICE))
    assert placement.single
    assert placement.is_cpu
    assert placement.writes
    assert not placement.several_processes
    assert placement.parts == 1
    assert placement.platform == "cpu"
    assert placement.device == DEVICE
    assert placement.sharding == SingleDeviceSharding(DEVICE)
    assert placement.sharded(PartitionSpec("data")) == SingleDeviceSharding(DEVICE)
    assert placement.batch_shardings({"input": np.zeros((3, 2))}, 3) == SingleDeviceSharding(DEVICE)
    assert placement.describe() == "cpu:0 (cpu)"


def test_arrays_are_put_to_one_device_and_fetched():
    placement, tree = Placement(DEVICE), {"a": np.arange(3), "b": jnp.ones(())}
    put = placement.put(tree)
    assert all(isinstance(leaf, jax.Array) and placement.holds(leaf) for leaf in jax.tree.leaves(put))
    fetched = placement.fetch(put)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(fetched))
    np.testing.assert_array_equal(fetched["a"], tree["a"])
    copy = placement.copies(put, jax.tree.map(lambda _: placement.sharding, put))
    assert copy["a"].unsafe_buffer_pointer() != put["a"].unsafe_buffer_pointer()
    assert placement.on_first_process([put["a"]])[0].tolist() == [0, 1, 2]


def test_explicit_axes_are_refused_with_the_fix():
    mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Explicit,))
    with pytest.raises(ValueError, match=r"must be Auto, but some of data are Explicit\. Write jax\.sharding\.Mesh"):
        Placement(mesh)


def test_a_batch_specification_that_does_not_fit_the_mesh_is_refused():
    with pytest.raises(ValueError, match=r"Placement: batch_spec: .* names the axis 'batch', but the mesh has 'data'"):
        Placement(DEVICE, batch_spec=PartitionSpec("batch"))
    with pytest.raises(TypeError, match=r"Placement: batch_spec: expected a jax\.sharding\.PartitionSpec, got 'data'"):
        Placement(DEVICE, batch_spec="data")  # pyright: ignore[reportArgumentType] which is tested


BEGIN = """
import gc
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
import jaxloop as jl
from jaxloop.placement import Placement

devices = np.array(jax.devices())
mesh = Mesh(devices.reshape(2, 4), ("data", "model"))
def columns(path, leaf):
    return P(None, "model")
"""

SAME = """
one, other = Placement(mesh, columns), Placement(Mesh(devices.reshape(2, 4), ("data", "model")), columns)
assert one == other and hash(one) == hash(other) and len({one, other}) == 1
others = [
    Placement(mesh), Placement(mesh, columns, gather=True), Placement(mesh, columns, P(("data", "model"))),
    Placement(Mesh(devices.reshape(4, 2), ("data", "model")), columns),
    Placement(Mesh(devices.reshape(2, 4), ("batch", "model")), columns),
    Placement(Mesh(devices[::-1].reshape(2, 4), ("data", "model")), columns),
    Placement(devices[0]),
]
assert len({one, *others}) == 8

# The hash stays when the mesh it was made of is gone, and another equal one takes its place.
before = hash(Placement(Mesh(devices[:2].reshape(2), ("data",))))
gc.collect()
assert hash(Placement(Mesh(devices[:2].reshape(2), ("data",)))) == before

assert [Placement(mesh, batch_spec=spec).parts for spec in (None, P("model"), P(("data", "model")), P(), P(None))] == [
    2, 4, 8, 1, 1
]
assert one.device == devices[0] and not one.single and one.writes and not one.several_processes
assert one.describe() == "8 devices (cpu): data=2, model=4; the batch by data, parameters by columns", one.describe()
assert Placement(mesh, batch_spec=P(("data", "model"))).describe().endswith("; the batch by data and model")
assert Placement(mesh, batch_spec=P()).describe().endswith("; the batch not divided")
assert one.holds(jax.device_put(1.0, one.sharding)) and not one.holds(jnp.ones(2))
assert one.sharding == NamedSharding(mesh, P()) and one.sharded(P("model")) == NamedSharding(mesh, P("model"))
"""

BATCHES = """
leaf = lambda *shape: jax.ShapeDtypeStruct(shape, np.float32)

line, grid = jl.data_parallel(), Placement(mesh)
for placement, options, batch, rows, expected in [
    (line, {}, leaf(16, 3), 16, P("data")),
    (line, {}, leaf(12, 3), 12, P()),                 # 12 rows do not divide by 8
    (grid, {}, leaf(12, 3), 12, P("data")),
    (line, {}, leaf(8, 3), 16, P()),                  # not as many as there are examples
    (line, {}, leaf(8, 3), None, P("data")),          # that is not known
    (line, {}, leaf(), 16, P()),
    (line, {}, leaf(16), 16, P("data")),
    (line, {"stacked": True}, leaf(5, 16, 3), 16, P(None, "data")),
    (line, {"stacked": True}, leaf(16, 5, 3), 5, P()),
    (line, {"stacked": True}, leaf(16), 16, P()),     # only an axis of steps
    (Placement(mesh, batch_spec=P("data", "model")), {}, leaf(4, 8, 3), 4, P("data", "model")),
    (Placement(mesh, batch_spec=P("data", "model")), {}, leaf(4, 6), 4, P("data")),  # 6 do not divide by 4
    (Placement(mesh, batch_spec=P("data", "model")), {}, leaf(4), 4, P("data")),
    (Placement(mesh, batch_spec=P(("data", "model"))), {}, leaf(8, 8), 8, P(("data", "model"))),
    (Placement(mesh, batch_spec=P()), {}, leaf(8, 8), 8, P()),
]:
    found, wanted = placement.batch_shardings(batch, rows, **options), placement.sharded(expected)
    assert found.is_equivalent_to(wanted, len(batch.shape)), (batch, rows, expected, found.spec)
"""

COPIES = """
placement = Placement(mesh, columns)
numbers = np.arange(32, dtype=np.float32).reshape(4, 8)
on_it = jax.device_put(numbers, NamedSharding(mesh, P("data")))
tree = {"host": numbers, "other": jax.device_put(numbers, devices[3]), "on it": on_it, "key": jax.random.key(1)}
places = {name: placement.sharded(P() if name == "key" else P(None, "model")) for name in tree}
copies = placement.copies(tree, places)
assert {name: copy.sharding for name, copy in copies.items()} == places
for name in ("host", "other", "on it"):
    np.testing.assert_array_equal(copies[name], numbers)
    jax.jit(lambda array: array * 0, donate_argnums=0)(copies[name])
    np.testing.assert_array_equal(np.asarray(tree[name]), numbers)
np.testing.assert_array_equal(*map(jax.random.key_data, (copies["key"], tree["key"])))

put = placement.put(tree)
assert put["on it"] is on_it  # what lies there stays
assert all(leaf.sharding.is_fully_replicated and placement.holds(leaf) for name, leaf in put.items() if name != "on it")
fetched = placement.fetch({"a": on_it, "b": put["host"]})
assert all(isinstance(leaf, np.ndarray) and np.array_equal(leaf, numbers) for leaf in fetched.values())
first = placement.on_first_process([on_it, put["host"]])
assert all(leaf.devices() == {devices[0]} and np.array_equal(leaf, numbers) for leaf in first)

# An accelerator is sent arrays of other devices without a stay in the host's memory.
Placement.is_cpu = property(lambda self: False)
copy = placement.copies({"other": tree["other"]}, {"other": places["other"]})["other"]
assert copy.sharding == places["other"]
np.testing.assert_array_equal(copy, numbers)
"""


def test_equal_placements_are_one_and_say_what_they_are():
    run_on_devices(BEGIN + SAME, 8)


def test_batches_are_divided_by_their_examples_where_they_can_be():
    run_on_devices(BEGIN + BATCHES, 8)


def test_copies_lie_where_they_are_wanted_and_share_no_memory():
    run_on_devices(BEGIN + COPIES, 8)


SHARDED = """
tree = {"wide": np.zeros((3, 8), np.float32), "deep": {"bias": np.zeros(4, np.float32)}}
placement = Placement(mesh, lambda path, leaf: P(None, "model") if path == "wide" else P())
found = placement.shardings(tree)
assert found == {"wide": NamedSharding(mesh, P(None, "model")), "deep": {"bias": NamedSharding(mesh, P())}}
try:
    placement.shardings({"wide": np.zeros((3, 6))})
except ValueError as error:
    assert "rule of params 'wide': by " in str(error) and "axis 1 of [3, 6] is divided into 4" in str(error)
else:
    raise AssertionError("it does not divide")

batch = np.arange(12.0, dtype=np.float32).reshape(4, 3), np.arange(4), np.float32(1)
input, target, number = placement.put_batch(batch)
assert input.sharding == NamedSharding(mesh, P("data")) == target.sharding and number.sharding.is_fully_replicated
jax.tree.map(np.testing.assert_array_equal, (input, target, number), batch)
"""


def test_parameters_lie_by_the_rule_and_a_batch_is_put_where_steps_take_it():
    run_on_devices(BEGIN + SHARDED, 8)


def test_one_device_has_all_of_both():
    placement = Placement(DEVICE)
    assert placement.shardings({"a": np.zeros(3)}) == {"a": placement.sharding}
    assert placement.put_batch((np.zeros(3), None))[0].devices() == {DEVICE}
