"""Metrics in evaluation are those of scikit-learn: ragged, masked, weighted, fused, in bfloat16, on eight devices."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxloop as jl
from tests.devices import run_on_devices
from tests.metrics.sklearn_says import check, metrics_of_all, said, samples

ROWS, BATCH = 203, 16


def evaluated(output, target, weight, steps_per_dispatch, dtype=jnp.float32, on=None):
    """All metrics of outputs that the model gives as they are, by `evaluate`."""

    def apply(params, state, input, *, training, key):
        return {name: (value + params).astype(dtype) for name, value in input.items()}, state

    training_loop = jl.TrainingLoop(
        [],
        optimizer=optax.sgd(0.1),
        loss_fn=lambda output, target: jnp.zeros(len(target["yes"])),
        metrics=metrics_of_all(),
        steps_per_dispatch=steps_per_dispatch,
        progress=False,
    )
    rows = (output, target) if weight is None else (output, target, weight)
    return training_loop.evaluate(jl.Model(apply, np.float32(0), {}), jl.in_batches(rows, BATCH), on=on)


SLOW = pytest.mark.slow
CASES = [pytest.param(4, True, marks=SLOW), pytest.param(1, True, marks=SLOW), pytest.param("auto", False, marks=SLOW)]


@pytest.mark.parametrize(("steps_per_dispatch", "weighted"), CASES)
def test_evaluation_measures_what_scikit_learn_does(steps_per_dispatch, weighted):
    output, target, weight = samples(ROWS)
    narrow = steps_per_dispatch == 4  # outputs in bfloat16 are measured in float32
    if narrow:
        output = {
            name: np.asarray(jnp.asarray(value, jnp.bfloat16).astype(jnp.float32)) for name, value in output.items()
        }
    found = evaluated(
        output, target, weight if weighted else None, steps_per_dispatch, jnp.bfloat16 if narrow else jnp.float32
    )
    check(found, said(output, target, weight if weighted else np.ones(ROWS)))


@pytest.mark.slow
def test_eight_devices_measure_what_scikit_learn_does():
    run_on_devices(
        """
import jaxloop as jl
from tests.metrics.sklearn_says import check, said, samples
from tests.metrics.test_against_scikit_learn import ROWS, evaluated

output, target, weight = samples(ROWS)
for steps in (1, 4):
    check(evaluated(output, target, weight, steps, on=jl.data_parallel()), said(output, target, weight))
""",
        8,
    )
