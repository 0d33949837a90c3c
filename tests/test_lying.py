"""The placement that a loop's arrays show."""

import jax

from jaxloop.loop import new_loop
from jaxloop.lying import placement_of
from jaxloop.ownership import on_device, own_copy
from jaxloop.placement import Placement
from tests import small
from tests.devices import run_on_devices


def test_a_loop_on_one_device_or_on_the_host_or_traced_shows_none():
    loop = new_loop(small.model(), (), jax.random.key(0))
    here = Placement(jax.devices()[0])
    assert placement_of(loop, [here]) is None
    assert placement_of(on_device(own_copy(loop, here), here), [here]) is None
    found = []
    jax.jit(lambda loop: found.append(placement_of(loop, [here])))(loop)
    assert found == [None]


SHOWN = """
import jax, jax.numpy as jnp, numpy as np
import jaxloop as jl
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from jaxloop.loop import new_loop
from jaxloop.lying import placement_of
from jaxloop.model import Model
from jaxloop.ownership import on_device, own_copy
from jaxloop.placement import Placement
from jaxloop.shardings import shardings_of
from tests import small

mesh = Mesh(np.array(jax.devices()).reshape(2, 4), ("data", "model"))
def columns(path, leaf):
    return P(None, "model") if leaf.ndim == 2 else P()
def rows(path, leaf):
    return P("data") if leaf.ndim == 2 else P()

first = new_loop(small.model(features=16, classes=8), (), jax.random.key(3))
lying = lambda place: on_device(own_copy(first, place), place)
known = [jl.data_parallel(), jl.fully_sharded(at_least=8), Placement(mesh), Placement(mesh, columns),
         Placement(mesh, rows, gather=True), jl.data_parallel(jax.devices()[:2])]

for place in known:
    loop = lying(place)
    assert placement_of(loop, known) is place
    # None is known: one is made by which each array stays where it is, and so do those of another loop like it.
    found = placement_of(loop, [])
    assert found.mesh == place.mesh and found == placement_of(loop, []) and hash(found) == hash(placement_of(loop, []))
    for leaf, sharding in zip(*map(jax.tree.leaves, (loop, shardings_of(found, loop))), strict=True):
        assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim)
    assert found.gather == place.gather
assert "parameters by where they lie" in placement_of(lying(known[3]), []).describe()

# The first that fits; a rule that gives the same is as good.
alike = Placement(mesh, batch_spec=P("model"))
assert placement_of(lying(known[2]), [known[3], alike, known[2]]) is alike

# On one device of several, or with parameters elsewhere, it shows none.
assert placement_of(lying(Placement(jax.devices()[3])), known) is None
apart = lying(known[0])
assert placement_of(apart.replace(model=apart.model.replace(params=jax.device_put(
    jax.device_get(apart.model.params), jax.devices()[1]))), known) is None

# Params and state may have the same names.
def apply(params, state, input, *, training, key):
    return input, state
model = Model(apply, {"w": np.zeros((4, 8), np.float32)}, {"w": np.zeros(8, np.float32)})
same = new_loop(model, (), jax.random.key(0))
place = Placement(mesh, columns)
loop = on_device(own_copy(same, place), place)
found = placement_of(loop, [])
for leaf, sharding in zip(*map(jax.tree.leaves, (loop, shardings_of(found, loop))), strict=True):
    assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim)
"""


def test_a_loop_over_a_mesh_shows_the_placement_that_is_known_or_one_by_which_it_stays():
    run_on_devices(SHOWN, 8)
