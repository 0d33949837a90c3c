"""What programs over eight devices are made of: collectives, donated bytes, and how often each is compiled."""

import pytest

from tests.devices import run_on_devices

BEGIN = """
import re
import jax, jax.numpy as jnp, numpy as np, optax
import jaxloop as jl
from jaxloop.shardings import shardings_of
from tests.compiling import counted_compiles
from tests.scale import cases

KINDS = ("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter", "collective-broadcast")

def collectives(hlo):
    \"\"\"How many of each kind the program has; in a scan its body counts once.\"\"\"
    found = {kind: len(re.findall(rf" {kind}(?:-start)?[(]", hlo)) for kind in KINDS}
    return {kind: count for kind, count in found.items() if count}
"""

COLLECTIVES = """
place = cases.placements()
for steps in (1, 8):
    loop = cases.training_loop(validation=None, steps_per_dispatch=steps)
    for model in (cases.mlp, cases.normed):
        expected = {"all-reduce": 1}
        found = loop.compile(model(), on=place["data"]).training
        if model is cases.mlp:  # batch norm needs the mean of the batch before it goes on
            assert collectives(found.hlo) == expected, (steps, collectives(found.hlo))
        else:
            assert set(collectives(found.hlo)) == {"all-reduce"}, (steps, collectives(found.hlo))
    found = collectives(loop.compile(cases.mlp(), on=place["sharded"]).training.hlo)
    # Three kernels are gathered; biases have fewer than 64 numbers.
    assert found.get("all-gather") == 3 and "all-to-all" not in found, (steps, found)
"""

DONATED = """
for name, place in cases.placements().items():
    for steps in (1, 8):
        loop = cases.training_loop(validation=None, steps_per_dispatch=steps)
        memory = loop.compile(cases.normed(), on=place).training.memory
        setup = loop.setup
        session = setup.fit(cases.normed(), 1, on=place)
        state = sum(
            leaf.addressable_shards[0].data.nbytes
            for leaf in jax.tree.leaves(session.loop)
            if isinstance(leaf, jax.Array) and not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        )
        # All arrays of the state, and the vector of its scalars.
        assert state <= memory["aliased"] <= state + 1024, (name, steps, state, memory)
        if name != "tensor":
            assert memory["aliased"] < memory["arguments"]
"""

COMPILES = """
def training_loop():
    callbacks = [jl.callbacks.ema(0.9, evaluate=True), jl.callbacks.early_stopping(monitor="validation_loss")]
    return cases.training_loop(steps_per_dispatch=4, callbacks=callbacks)

OURS = re.compile("jit[(]((training|validation)_step.*|begin|born|fit_.*|epoch_.*|training_.*|validation_.*)[)]")

def ours(counts):
    return {name: count for name, count in counts.items() if OURS.fullmatch(name)}

for name in NAMES:
    place = cases.placements()[name]
    for make in (cases.normed, lambda: cases.normed):
        loop = training_loop()
        with counted_compiles() as first:
            after, _ = loop.fit(make(), 2, on=place)
        assert {"jit(training_step_x4)", "jit(training_step_x2)", "jit(validation_step_x4)"} <= set(ours(first)), first
        assert set(ours(first).values()) == {1}, (name, first)
        with counted_compiles() as counts:
            loop.fit(make(), 2, on=place)
        assert set(ours(counts)) <= {"jit(born)"}, (name, counts)  # a function may make another model each time
        with counted_compiles() as counts:
            after, _ = loop.fit(after, 2, on=place)
        assert set(ours(counts)) <= {"jit(fit_start)"}, (name, counts)  # the average is there already
        with counted_compiles() as counts:
            loop.fit(after, 2, on=place)
        assert not ours(counts), (name, counts)
"""


@pytest.mark.slow
def test_a_data_parallel_step_has_one_all_reduce_and_a_fully_sharded_one_gathers_each_parameter_once() -> None:
    run_on_devices(BEGIN + COLLECTIVES, 8)


@pytest.mark.slow
def test_a_step_writes_over_the_whole_state_that_it_is_given() -> None:
    run_on_devices(BEGIN + DONATED, 8)


@pytest.mark.slow
def test_each_program_is_compiled_once_and_none_in_a_second_fit() -> None:
    run_on_devices("NAMES = ['sharded']" + BEGIN + COMPILES, 8)


@pytest.mark.exhaustive
def test_each_program_is_compiled_once_on_every_mesh() -> None:
    run_on_devices("NAMES = ['data', 'sharded', 'tensor']" + BEGIN + COMPILES, 8, timeout=900)
