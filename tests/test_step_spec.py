import jax.numpy as jnp
import numpy as np
import optax

import jaxloop as jl
from jaxloop.metrics import resolve
from jaxloop.step_spec import StepSpec
from tests import small


class Count:
    """The number of examples, a whole number."""

    name = "count"

    def init(self):
        return np.int32(0)

    def update(self, state, *, target, **seen):
        return state + jnp.int32(target.shape[0])

    def compute(self, state):
        return state


def test_the_dtype_of_each_statistic_is_found_without_a_step():
    spec = StepSpec(optax.sgd(0.1), jl.losses.softmax_cross_entropy, None, resolve(["accuracy", Count()]))
    assert {name: str(dtype) for name, dtype in spec.stat_dtypes.items()} == {
        "loss": "float32",
        "accuracy": "float32",
        "count": "int32",
    }


def test_a_spec_fires_its_callbacks_in_order():
    def adding(number):
        return lambda loop, event: loop.record("sum", loop.stats.get("sum", 0) * 10 + number)

    spec = StepSpec(optax.sgd(0.1), None, None, (), (adding(1), adding(2)), new_stats=True)
    loop = small.training_loop().start(small.model(), epochs=1)
    assert int(spec.fire(loop, jl.Event.EPOCH_START).stats["sum"]) == 12
