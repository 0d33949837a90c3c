"""Who owns the arrays of a loop."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxloop.loop import Loop, new_loop
from jaxloop.ownership import on_device, own_copy, with_host_scalars
from jaxloop.placement import Placement
from tests import small
from tests.devices import run_on_devices

HERE = Placement(jax.devices()[0])


def device_loop() -> Loop:
    model = small.model()
    loop = new_loop(model, optax.adam(0.1).init(model.params), jax.random.key(3))
    return jax.tree.map(jnp.asarray, loop.replace(stats={"loss": np.float32(2.5)}))


def test_scalars_become_numpys_and_all_else_stays_as_it_is():
    loop = device_loop()
    open_loop = with_host_scalars(loop)
    assert isinstance(open_loop.step, np.int32)
    assert isinstance(open_loop.stats["loss"], np.float32)
    assert open_loop.stats["loss"] == 2.5
    assert open_loop.model.params["kernel"] is loop.model.params["kernel"]
    assert jnp.issubdtype(open_loop.key.dtype, jax.dtypes.prng_key)


def test_a_copy_shares_no_array_and_its_weak_types_are_strong():
    loop = device_loop()
    loop = loop.replace(opt_state=(*loop.opt_state, jnp.full(3, 1.0)))
    assert loop.opt_state[-1].weak_type
    copy = own_copy(loop, HERE)
    small.assert_trees_equal(jax.tree.leaves(copy), jax.tree.leaves(loop))
    assert not copy.opt_state[-1].weak_type
    for own, given in zip(jax.tree.leaves(copy), jax.tree.leaves(loop), strict=True):
        if isinstance(own, jax.Array) and not jnp.issubdtype(own.dtype, jax.dtypes.prng_key):
            assert own.unsafe_buffer_pointer() != given.unsafe_buffer_pointer()


def test_a_loop_of_numpy_can_be_copied_and_is_not_the_users_afterwards():
    loop = device_loop()
    loop = jax.tree.map(np.array, loop.replace(key=None)).replace(key=loop.key)
    copy = own_copy(loop, HERE)
    loop.model.params["kernel"][:] = 9
    assert not (np.asarray(copy.model.params["kernel"]) == 9).any()


def test_given_away_scalars_are_on_the_device_and_arrays_are_not_copied():
    copy = own_copy(device_loop(), HERE)
    given = on_device(copy, HERE)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(given))
    assert given.model.params["kernel"].unsafe_buffer_pointer() == copy.model.params["kernel"].unsafe_buffer_pointer()


OVER_A_MESH = """
import jax, jax.numpy as jnp, numpy as np, optax
import jaxloop as jl
from jax.sharding import PartitionSpec as P
from jaxloop.loop import new_loop
from jaxloop.ownership import on_device, own_copy, with_host_scalars
from jaxloop.placement import Placement
from jaxloop.shardings import shardings_of
from tests import small

model = small.model(features=16, classes=8)
first = new_loop(model, optax.adam(0.1).init(model.params), jax.random.key(3))
pointers = lambda array: {shard.data.unsafe_buffer_pointer() for shard in array.addressable_shards}
where = [Placement(jax.devices()[2]), jl.data_parallel(), jl.fully_sharded(at_least=8),
         jl.fully_sharded(jax.devices()[2:4], at_least=8), Placement(jax.devices()[0])]
for come_from in where:
    given = on_device(own_copy(first, come_from), come_from)
    for place in where:
        copy = own_copy(given, place)
        assert isinstance(copy.step, np.int32) and isinstance(copy.model.state["passes"], np.int32)
        small.assert_trees_equal(jax.device_get(copy.model), jax.device_get(first.model))
        np.testing.assert_array_equal(jax.random.key_data(copy.key), jax.random.key_data(first.key))
        wanted = shardings_of(place, copy)
        for leaf, sharding, source in zip(*map(jax.tree.leaves, (copy, wanted, given)), strict=True):
            if isinstance(leaf, jax.Array):
                assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim), (leaf.sharding, sharding)
                if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                    assert pointers(leaf).isdisjoint(pointers(source))
        away = on_device(copy, place)
        assert all(place.holds(leaf) for leaf in jax.tree.leaves(away))
        assert away.model.params["kernel"] is copy.model.params["kernel"] or place.single
        jax.block_until_ready(jax.jit(lambda loop: loop.model.params["kernel"].sum())(away))
"""


@pytest.mark.slow
def test_from_any_placement_to_any_other_a_copy_lies_where_it_is_wanted_and_shares_nothing():
    run_on_devices(OVER_A_MESH, 8)
