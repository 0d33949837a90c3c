"""Runs of every kind over eight devices are, but for rounding, those of one."""

import pytest

from tests.devices import run_on_devices
from tests.scale.cases import CASES

BEGIN = """
from tests.scale import cases
"""


@pytest.mark.slow
def test_a_run_with_callbacks_equals_that_of_one_device() -> None:
    script = """
case = cases.CASES["schedule, clip, EMA, records, early stop"]._replace(epochs=2)
cases.check(case, ["sharded"], [3])
"""
    run_on_devices(BEGIN + script, 8)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", CASES)
def test_a_run_of_any_kind_equals_that_of_one_device(name: str) -> None:
    run_on_devices(BEGIN + f"cases.check(cases.CASES[{name!r}], said={name!r})", 8, timeout=900)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", ["MLP", "transformer"])
@pytest.mark.parametrize("steps", [1, 8, "auto"])
def test_a_hundred_steps_equal_those_of_one_device_however_many_a_dispatch_takes(name: str, steps: int | str) -> None:
    run_on_devices(BEGIN + f"cases.check(cases.CASES[{name!r}], dispatches=[{steps!r}])", 8, timeout=900)


TOKENS = """
import jax, numpy as np
from jax.sharding import Mesh, PartitionSpec as P
import jaxloop as jl

# In another order of devices, by another axis than the first, and by tokens too.
mesh = Mesh(np.array(jax.devices())[::-1].reshape(4, 2), ("x", "y"))
for name in ("transformer", "weights of tokens"):
    case = cases.CASES[name]._replace(epochs=2)
    expected = cases.run(case, "cpu:0", steps_per_dispatch=3)
    for spec in (P("x", "y"), P("y"), P(("y", "x"))):
        found = cases.run(case, jl.Placement(mesh, batch_spec=spec), steps_per_dispatch=3)
        cases.check_equal(expected, found, case.tolerance, f"{name}, {spec}")
"""


@pytest.mark.exhaustive
def test_a_batch_divided_by_tokens_or_by_another_axis_gives_the_losses_of_one_device() -> None:
    run_on_devices(BEGIN + TOKENS, 8, timeout=900)


DRAWN = """
import hypothesis, jax, numpy as np, optax
from hypothesis import strategies as some
from jax.sharding import Mesh, PartitionSpec as P
import jaxloop as jl
from tests import small

SHAPES = [(8,), (4, 2), (2, 4), (2, 2, 2)]
NAMES = "abc"
SPECS = [None, "a", "b", "c", ("a", "b"), ("b", "a"), ("c", "a")]

def spec(drawn, axes, shape, mesh):
    \"\"\"A specification that the mesh has and the array divides by, made of what was drawn.\"\"\"
    entries, used = [], set()
    for entry, length in zip(drawn, shape):
        names = [name for name in ([entry] if isinstance(entry, str) else entry or []) if name in axes]
        parts = int(np.prod([mesh.shape[name] for name in names])) if names else 1
        fits = names and not used & set(names) and length % parts == 0
        used |= set(names) if fits else set()
        entries.append(tuple(names) if fits else None)
    return P(*entries)

class Rule:
    \"\"\"One specification for matrices, one for vectors.\"\"\"
    def __init__(self, drawn, mesh):
        self.drawn, self.mesh = tuple(drawn), mesh
    def __call__(self, path, leaf):
        return spec(self.drawn[leaf.ndim:], self.mesh.axis_names, leaf.shape, self.mesh)

samples = [small.samples(count, features=16, classes=8) for count in (48, 11)]
def losses(on, steps):
    loop = small.training_loop(
        training=jl.TrainingEpochs(samples[0], 16), validation=jl.in_batches(samples[1], 8),
        optimizer=optax.adam(0.01), steps_per_dispatch=steps,
    )
    history = loop.fit(small.model(features=16, classes=8), 2, on=on)[1]
    return [*history.batches["loss"], *history.epochs["validation_loss"]]

expected = {steps: losses("cpu:0", steps) for steps in (1, 3)}

@hypothesis.settings(max_examples=EXAMPLES, deadline=None, database=None, derandomize=True)
@hypothesis.given(some.sampled_from(SHAPES), some.lists(some.sampled_from(SPECS), min_size=4, max_size=4),
    some.sampled_from(SPECS), some.booleans(), some.sampled_from([1, 3]))
def check(shape, drawn, batch, gather, steps):
    axes = tuple(NAMES[:len(shape)])
    mesh = Mesh(np.array(jax.devices()).reshape(shape), axes)
    on = jl.Placement(mesh, Rule(drawn, mesh), spec([batch], axes, [16], mesh), gather)
    np.testing.assert_allclose(losses(on, steps), expected[steps], rtol=0, atol=1e-5)

check()
"""


@pytest.mark.slow
def test_over_a_mesh_of_any_form_by_any_rule_losses_are_those_of_one_device() -> None:
    run_on_devices(f"EXAMPLES = 3{DRAWN}", 8)


@pytest.mark.exhaustive
def test_over_many_meshes_by_many_rules_losses_are_those_of_one_device() -> None:
    run_on_devices(f"EXAMPLES = 40{DRAWN}", 8, timeout=900)
