"""Arrays lie where the rule says at every event and after every step, and never whole where they are divided."""

import pytest

from tests.devices import run_on_devices

BEGIN = """
import jax, jax.numpy as jnp, numpy as np, optax
from flax import nnx
import jaxloop as jl
from jaxloop.shardings import shardings_of
from tests import small
from tests.scale import cases

def misplaced(place, loop):
    wanted = jax.tree_util.tree_leaves_with_path(shardings_of(place, loop))
    return [
        (jax.tree_util.keystr(path), leaf.sharding, sharding)
        for leaf, (path, sharding) in zip(jax.tree.leaves(loop), wanted, strict=True)
        if isinstance(leaf, jax.Array) and not leaf.sharding.is_equivalent_to(sharding, leaf.ndim)
    ]

def check(place, loop, said):
    assert not misplaced(place, loop), (said, misplaced(place, loop))
    assert place.holds(loop.model.params["kernel"] if "kernel" in loop.model.params else jax.tree.leaves(loop.model)[0])

def moving(loop, event):
    \"\"\"Makes the divided kernel of what is whole, and the bias of the kernel: XLA would let them lie so.\"\"\"
    if event in (jl.Event.UPDATE_START, jl.Event.INFERENCE_PREDICTION_END):
        return loop
    params = loop.model.params
    kernel = jnp.outer(jnp.cos(jnp.arange(16.0)), params["bias"] + 0.1) + params["kernel"].mean()
    params = params | {"kernel": kernel, "bias": params["bias"] + 0.01 * params["kernel"].sum(0)}
    return loop.replace(model=loop.model.replace(params=params))

model = lambda: small.model(features=16, classes=8)
places = cases.placements() | {"few": jl.fully_sharded(jax.devices()[:4], at_least=8)}
places = {name: places[name] for name in NAMES}

def training_loop(**changes):
    samples = [small.samples(count, features=16, classes=8) for count in (24, 11)]
    arguments = {"training": jl.TrainingEpochs(samples[0], 8), "validation": jl.in_batches(samples[1], 8),
                 "optimizer": optax.inject_hyperparams(optax.adam)(learning_rate=0.01)}
    return small.training_loop(**(arguments | changes))
"""

EVENTS = """
for name, place in places.items():
    seen = []

    @jl.on_host(*jl.Event, reads="loop")
    def look(loop, event):
        seen.append(event)
        check(place, loop, (name, event))

    compiled = [moving, jl.callbacks.ema(0.9, evaluate=True), jl.callbacks.clip_by_global_norm(1.0),
                jl.callbacks.early_stopping(monitor="validation_loss", restore_best=True)]
    loop, _ = training_loop(callbacks=[*compiled, look]).fit(model(), 2, on=place)
    assert set(seen) == set(jl.Event)
    check(place, loop, (name, "after the fit"))
    seen.clear()
    loop, _ = training_loop(callbacks=[*compiled, look]).fit(loop, 1, on=place)  # a loop that goes on
    check(place, loop, (name, "after the second fit"))
"""

BY_HAND = """
batches = list(jl.in_batches(small.samples(24, features=16, classes=8), 8))
stacked = jax.tree.map(lambda *parts: np.stack(parts), *batches)
def by_hand(on, watch=lambda loop, said: None):
    training = training_loop(steps_per_dispatch=1, callbacks=[moving, jl.callbacks.ema(0.9)])
    loop = training.start(model(), epochs=2, on=on)
    watch(loop, "start")
    losses = []
    for _ in range(2):
        loop = training.begin_epoch(loop)
        watch(loop, "begin_epoch")
        for batch in batches:
            loop = training.train_step(loop, batch)
            losses.append(float(loop.stats["loss"]))
            watch(loop, "train_step")
        loop = training.eval_step(loop, batches[0])
        watch(loop, "eval_step")
        losses.append(float(loop.stats["loss"]))
        loop = training.end_epoch(loop)
        watch(loop, "end_epoch")
    loop, rows = training.run_steps(training.begin_epoch(loop), stacked)
    watch(loop, "run_steps")
    assert rows["loss"].sharding.is_fully_replicated
    return [*losses, *map(float, rows["loss"])]

expected = by_hand("cpu:0")
for name, place in places.items():
    found = by_hand(place, lambda loop, said: check(place, loop, (name, said)))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5, err_msg=name)
"""

BYTES = """
class Wide(nnx.Module):
    def __init__(self, rngs):
        self.first, self.last = nnx.Linear(16, 1024, rngs=rngs), nnx.Linear(1024, 8, rngs=rngs)

    def __call__(self, input):
        return self.last(nnx.relu(self.first(input)))

def largest():
    \"\"\"The most numbers that a device has of any array that is alive.\"\"\"
    return max(
        (shard.data.size for array in jax.live_arrays() if jnp.issubdtype(array.dtype, jnp.floating)
         for shard in array.addressable_shards),
        default=0,
    )

whole = 16 * 1024
seen = []

@jl.on_host(*jl.Event, reads="stats")
def look(loop, event):
    seen.append((event, largest()))

place = jl.fully_sharded()
loop, _ = training_loop(callbacks=[look], steps_per_dispatch=2).fit(lambda: Wide(nnx.Rngs(0)), 2, on=place)
assert seen and max(size for _, size in seen) <= whole // 8, seen
assert largest() <= whole // 8
state = [leaf for leaf in jax.tree.leaves((loop.model, loop.opt_state)) if jnp.issubdtype(leaf.dtype, jnp.floating)]
total = sum(leaf.nbytes for leaf in state)
few = sum(leaf.nbytes for leaf in state if leaf.size < 1024)
for device in jax.devices():
    here = sum(shard.data.nbytes for leaf in state for shard in leaf.addressable_shards if shard.device == device)
    assert here == (total - few) // 8 + few, (here, total, few)
# The same numbers as the model that is made outside, up to the rounding of a fused program.
one, _ = training_loop(callbacks=[look], steps_per_dispatch=2).fit(Wide(nnx.Rngs(0)), 2, on="cpu:0")
small.assert_close(jax.device_get(loop.stats["loss"]), jax.device_get(one.stats["loss"]))
"""

REFITS = """
training = training_loop(steps_per_dispatch=3)
def chain(places):
    loop, losses = model(), []
    for place in places:
        loop, history = training.fit(loop, 1, on=place)
        losses += [*history.batches["loss"], *history.epochs["validation_loss"]]
        jax.tree.map(jax.block_until_ready, loop)  # nothing of it was deleted
        kept.append(loop)
    return losses, loop

kept = []
two = jl.data_parallel(jax.devices()[5:7])
expected, last = chain(["cpu:0"] * 5)
kept.clear()
found, loop = chain(["cpu:0", jl.data_parallel(), jl.fully_sharded(at_least=8), two, "cpu:0"])
np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
small.assert_close(jax.device_get(loop.model.params), jax.device_get(last.model.params))
for loop in kept:  # each loop that was given back can still be read
    assert np.isfinite(np.asarray(jax.device_get(loop.model.params["kernel"]))).all()
    assert int(loop.step) % 3 == 0 and repr(loop)
assert [len(loop.model.params["kernel"].devices()) for loop in kept] == [1, 8, 8, 2, 1]

# Evaluation and prediction of a loop stay where it lies, unless they are told otherwise.
batches = jl.in_batches(small.samples(11, seed=3, features=16, classes=8), 4)
alone = training.evaluate(kept[2], batches, on="cpu:0")
for on in (None, jl.data_parallel(), two):
    assert abs(training.evaluate(kept[2], batches, on=on)["loss"] - alone["loss"]) < 1e-6
session = training.setup.evaluation(kept[2], batches)
assert session.placement == jl.fully_sharded(at_least=8), session.placement
assert training.setup.evaluation(kept[2], batches, on="cpu:0").placement.single
assert training.setup.prediction(kept[3], batches).placement == two
np.testing.assert_allclose(training.predict(kept[2], batches), training.predict(kept[2], batches, on="cpu:0"),
    rtol=1e-5, atol=1e-6)
# A training loop that has never seen the placement finds it by how the arrays lie.
assert abs(training_loop().evaluate(kept[2], batches)["loss"] - alone["loss"]) < 1e-6
"""


def run(script: str, names: tuple[str, ...] = ("sharded",)) -> None:
    run_on_devices(f"NAMES = {names}" + BEGIN + script, 8, timeout=900)


@pytest.mark.slow
def test_at_each_event_each_leaf_lies_where_the_rule_says() -> None:
    run(EVENTS)


@pytest.mark.slow
def test_steps_in_a_users_own_loop_keep_arrays_in_place_and_give_the_same_losses() -> None:
    run(BY_HAND)


@pytest.mark.slow
@pytest.mark.parametrize("script", [EVENTS, BY_HAND], ids=["events", "by hand"])
def test_arrays_stay_in_place_on_every_mesh(script: str) -> None:
    run(script, ("data", "sharded", "tensor", "few"))


@pytest.mark.slow
def test_a_model_that_a_function_makes_is_never_whole_on_a_device() -> None:
    run(BYTES)


@pytest.mark.slow
def test_a_loop_goes_from_placement_to_placement_and_stays_readable() -> None:
    run(REFITS)
