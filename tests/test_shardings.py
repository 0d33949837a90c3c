"""Where each leaf of a loop lies: by metadata, by rule, as its parameter, by examples, or on each device."""

import jax
import numpy as np

from jaxloop.loop import new_loop
from jaxloop.model import Model
from jaxloop.placement import Placement
from jaxloop.shardings import gathered, pinned, shardings_of, with_parameters
from tests import small
from tests.devices import run_on_devices


def test_on_one_device_everything_lies_there_and_nothing_is_constrained():
    placement = Placement(jax.devices()[0])
    loop = new_loop(small.model(), {"count": np.int32(0)}, jax.random.key(0))
    assert set(jax.tree.leaves(shardings_of(placement, loop))) == {placement.sharding}
    for place in (placement, None):
        assert gathered(place, loop.model) is loop.model
        assert with_parameters(place, loop.model, loop.model.params) is loop.model.params
    assert pinned(placement, loop) is loop


def test_a_model_that_asks_for_nothing_gathers_nothing():
    assert isinstance(gathered(None, small.model()), Model)


BEGIN = """
import jax, jax.numpy as jnp, numpy as np, optax
from flax import linen, nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
import jaxloop as jl
from jaxloop.loop import new_loop
from jaxloop.model import Model, as_model
from jaxloop.placement import Placement
from jaxloop.shardings import gathered, pinned, shardings_of, shardings_of_model, with_parameters

mesh = Mesh(np.array(jax.devices()).reshape(2, 4), ("data", "model"))
seen = []
def columns(path, leaf):
    seen.append((path, leaf.shape))
    return P(*[None] * (leaf.ndim - 1), "model") if leaf.ndim and leaf.shape[-1] % 4 == 0 else P()
placement = Placement(mesh, columns)
apply = lambda params, state, input, *, training, key: (input, state)
zeros = lambda *shape: np.zeros(shape, np.float32)
layer = lambda *shape: {"kernel": zeros(*shape), "bias": zeros(shape[-1])}
params = {"a": layer(6, 8), "b": layer(8, 3), "scale": zeros()}
model = Model(apply, params, {"mean": zeros(8), "count": np.int32(0)})

def specs(tree):
    return {jax.tree_util.keystr(path, simple=True, separator="/"): sharding.spec
            for path, sharding in jax.tree_util.tree_leaves_with_path(tree)}

def refused(make, kind, message):
    try:
        make()
    except kind as error:
        assert message in str(error), error
    else:
        raise AssertionError("it is not refused")

C, R = P(None, "model"), P("model")
EXPECTED = {"a/kernel": C, "a/bias": R, "b/kernel": P(), "b/bias": P(), "scale": P()}
"""

RULE = """
found = shardings_of_model(placement, model)
assert specs(found.params) == EXPECTED, specs(found.params)
assert specs(found.state) == {"mean": R, "count": P()}
assert ("a/kernel", (6, 8)) in seen and ("mean", (8,)) in seen and ("scale", ()) in seen  # paths as a user writes them
shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), model)
assert shardings_of_model(placement, shapes) == found  # it takes shapes too

lying = lambda path, leaf: P("model") if path == "b/bias" else P()
refused(lambda: shardings_of_model(Placement(mesh, lying), model), ValueError,
    f"rule of params 'b/bias': by {P('model')}, axis 0 of [3] is divided into 4, but 3 = 4 x 0 + 3.")
refused(lambda: shardings_of_model(Placement(mesh, lambda path, leaf: P("pipe")), model), ValueError,
    "Use one of them.")
refused(lambda: shardings_of_model(Placement(mesh, lambda path, leaf: None), model), TypeError, "got None")
refused(lambda: shardings_of_model(Placement(mesh, lambda path, leaf: P(None, None)), model), ValueError,
    "has 2 entries for an array of shape [8]")

# A path in a list, and parameters that are one array.
assert specs(shardings_of_model(placement, Model(apply, [zeros(4), zeros(2, 4)], {})).params) == {"0": R, "1": C}
one = new_loop(Model(apply, zeros(3, 4), {}), optax.adam(1.0).init(zeros(3, 4)), jax.random.key(0))
assert specs(shardings_of(placement, one).opt_state) == {"0/count": P(), "0/mu": C, "0/nu": C}
"""

METADATA = """
from jaxloop.adapters.nnx import placed_later
with placed_later():
    layer = nnx.Linear(4, 8, rngs=nnx.Rngs(0), kernel_metadata={"out_sharding": ("model", None)})
found = shardings_of_model(placement, as_model(layer))
assert specs(found.params) == {"kernel": P("model", None), "bias": R}  # it beats the rule, and only where it is
with placed_later():
    layer = nnx.Linear(4, 8, rngs=nnx.Rngs(0), kernel_metadata={"out_sharding": (None, "pipe")})
refused(lambda: shardings_of_model(placement, as_model(layer)), ValueError, "partitioning metadata of params 'kernel'")
refused(lambda: shardings_of_model(placement, as_model(layer)), ValueError, "flax.linen.logical_axis_rules")
"""

FOLLOWERS = """
def opt_specs(optimizer, params=params):
    loop = new_loop(model.replace(params=params), optimizer.init(params), jax.random.key(0))
    return specs(shardings_of(placement, loop).opt_state)

def follows(found, times):
    for name, spec in EXPECTED.items():
        if name != "scale":
            lying = [found[path] for path in found if path.endswith("/" + name)]
            assert len(lying) == times and set(lying) == {spec}, (name, lying)

follows(opt_specs(optax.adamw(1.0)), 2)
follows(opt_specs(optax.inject_hyperparams(optax.adamw)(learning_rate=1.0)), 2)
follows(opt_specs(optax.MultiSteps(optax.adamw(1.0), 2).gradient_transformation()), 3)
labels = {"a": "one", "b": "other", "scale": "one"}
follows(opt_specs(optax.multi_transform({"one": optax.adam(1.0), "other": optax.adam(1.0)}, labels)), 2)
follows(opt_specs(optax.contrib.schedule_free_adamw(1.0)), 2)
factored = opt_specs(optax.adafactor(1.0, min_dim_size_to_factor=2))
assert {factored[path] for path in factored if path.endswith(("v_row/a/kernel", "v_col/a/kernel"))} == {P()}

# What has another shape, or only a like name, lies on each device.
loop = new_loop(model, {"a": {"kernel": zeros(8, 6)}, "kernel": zeros(6, 8), "trace": params}, jax.random.key(0))
found = specs(shardings_of(placement, loop).opt_state)
assert found["a/kernel"] == P() and found["kernel"] == P() and found["trace/a/kernel"] == C

# What callbacks remember, and the gradient, follow too; of the batch each array is divided by examples.
batch = {"input": zeros(16, 4), "target": np.zeros(16, np.int32), "weight": zeros(16), "output": zeros(16, 3),
         "loss": zeros(16), "gradient": params}
memory = {"ema": {"average": params, "n": zeros()}}
loop = new_loop(model, (), jax.random.key(0)).replace(callback_state=memory, **batch)
found = shardings_of(placement, loop)
assert {f"ema/average/{name}": spec for name, spec in EXPECTED.items()} | {"ema/n": P()} == specs(found.callback_state)
assert specs(found.gradient) == EXPECTED
for name in ("input", "target", "weight", "output", "loss"):
    assert getattr(found, name).is_equivalent_to(NamedSharding(mesh, P("data")), getattr(loop, name).ndim), name
for name in ("key", "step", "stop", "metrics", "stats"):
    assert set(specs(getattr(found, name)).values()) <= {P()}, name
assert jax.tree.structure(found) == jax.tree.structure(loop)
"""

TRACED = """
loop = new_loop(model, optax.adam(1.0).init(params), jax.random.key(0))
wanted = shardings_of(placement, loop)
equal = lambda one, other, leaf: one.is_equivalent_to(other, leaf.ndim)

# Whatever a program does with it, what comes out lies where it is wanted.
out = jax.jit(lambda loop: pinned(placement, jax.tree.map(jnp.copy, loop)))(loop)
assert all(equal(leaf.sharding, place, leaf) for leaf, place in zip(*map(jax.tree.leaves, (out, wanted)), strict=True))
whole = jax.jit(lambda model: gathered(Placement(mesh, columns, gather=True), model))(out.model)
assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(whole))
assert gathered(placement, out.model) is out.model  # unless it is asked for
tree = jax.jit(lambda model: with_parameters(placement, model, {"of": model.params, "n": jnp.zeros(())}))(out.model)
for path, spec in EXPECTED.items():
    leaf = tree["of"]
    for key in path.split("/"):
        leaf = leaf[key]
    assert equal(leaf.sharding, NamedSharding(mesh, spec), leaf), path
"""


def test_the_rule_says_where_parameters_and_state_lie_and_what_does_not_fit_is_refused_with_its_path():
    run_on_devices(BEGIN + RULE, 8)


def test_partitioning_metadata_come_before_the_rule():
    run_on_devices(BEGIN + METADATA, 8)


def test_what_belongs_to_a_parameter_lies_as_it_does_and_batches_are_divided():
    run_on_devices(BEGIN + FOLLOWERS, 8)


def test_results_of_programs_are_kept_in_their_place_or_gathered():
    run_on_devices(BEGIN + TRACED, 8)
