"""The tools around a fit, and the branches that only accelerators take, over eight devices."""

import pytest

from tests.devices import run_on_devices

BEGIN = """
import io
import jax, jax.numpy as jnp, numpy as np, optax
import jaxloop as jl
from jaxloop.placement import Placement
from tests import small
from tests.scale import cases

model = lambda: small.model(features=16, classes=8)
def training_loop(**changes):
    samples = [small.samples(count, features=16, classes=8) for count in (48, 11)]
    arguments = {"training": jl.TrainingEpochs(samples[0], 8), "validation": jl.in_batches(samples[1], 8),
                 "optimizer": optax.inject_hyperparams(optax.adam)(learning_rate=0.01)}
    return small.training_loop(**(arguments | changes))
"""

TOOLS = """
data = jl.data_parallel()
training = training_loop(steps_per_dispatch="auto")
found = [jl.find_learning_rate(training, model(), on=on, steps=30, end_rate=100.0) for on in ("cpu:0", data)]
np.testing.assert_allclose(found[1].losses, found[0].losses, rtol=1e-4)
np.testing.assert_allclose(found[1].suggestion, found[0].suggestion, rtol=1e-3)

measured = jl.benchmark(training, model(), on=data, rounds=2, warmup=1)
assert 0 < measured.seconds.median < 10 and measured.device_count == 8, measured

said = io.StringIO()
jl.explain(training, model(), on=data, file=said)
assert "steps" in said.getvalue()

compiled = training.compile(model(), on=data)
assert "all-reduce" in compiled.training.hlo and compiled.validation is not None

batches = jl.in_batches(small.samples(11, seed=3, features=16, classes=8), 4)
for on in (data, jl.fully_sharded(at_least=8)):
    one, many = (training.evaluate(model(), batches, on=place) for place in ("cpu:0", on))
    assert one.keys() == many.keys()
    np.testing.assert_allclose([*many.values()], [*one.values()], rtol=1e-6)
    np.testing.assert_allclose(
        training.predict(model(), batches, on=on), training.predict(model(), batches, on="cpu:0"), rtol=1e-5, atol=1e-6
    )
"""

ACCELERATORS = """
@jl.on_host(jl.Event.BATCH_END, jl.Event.VALIDATION_END, reads="stats")
def look(loop, event):
    dict(loop.stats)

def fitted(on, steps, **changes):
    training = training_loop(steps_per_dispatch=steps, **changes)
    loop, history = training.fit(model(), 2, on=on)
    return jax.device_get(loop.model.params), history

KINDS = {
    "plain": lambda: {},
    "observed": lambda: {"callbacks": [look]},
    "a loader": lambda: {"training": [list(jl.in_batches(small.samples(48, features=16, classes=8), 8))] * 2},
    "resident": lambda: {"training": jl.TrainingEpochs(small.samples(48, features=16, classes=8), 8, resident=True)},
}
expected = {(kind, steps): fitted("cpu:0", steps, **KINDS[kind]()) for kind, steps in CASES}
Placement.is_cpu = property(lambda self: False)
Placement.platform = property(lambda self: "gpu")  # also what decides how many steps a dispatch takes
where = {"one": "cpu:0", "data": jl.data_parallel(), "sharded": jl.fully_sharded(at_least=8)}
for (kind, steps), (params, history) in expected.items():
    for name, on in where.items():
        found, told = fitted(on, steps, **KINDS[kind]())
        for one, other in ((history.batches["loss"], told.batches["loss"]),
                           (history.epochs["validation_loss"], told.epochs["validation_loss"])):
            np.testing.assert_allclose(other, one, rtol=0, atol=1e-5, err_msg=f"{kind}, {name}, {steps}")
        small.assert_close(found, params)
        if name == "one":
            np.testing.assert_array_equal(told.batches["loss"], history.batches["loss"], err_msg=kind)
"""


@pytest.mark.exhaustive
def test_tools_take_a_mesh_and_give_what_one_device_gives() -> None:
    run_on_devices(BEGIN + TOOLS, 8, timeout=900)


@pytest.mark.slow
def test_the_branches_of_accelerators_give_what_a_cpu_gives() -> None:
    run_on_devices('CASES = [("observed", 3)]' + BEGIN + ACCELERATORS, 8)


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", ["plain", "observed", "a loader", "resident"])
def test_the_branches_of_accelerators_give_what_a_cpu_gives_for_data_of_every_kind(kind: str) -> None:
    run_on_devices(f"CASES = [({kind!r}, 1), ({kind!r}, 3)]" + BEGIN + ACCELERATORS, 8, timeout=900)
