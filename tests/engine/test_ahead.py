"""A fit before it runs: over shapes alone it has the programs that it has with arrays."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxloop as jl
from jaxloop.engine.ahead import look_ahead
from jaxloop.events import Phase
from jaxloop.placement import Placement
from tests import small
from tests.devices import run_on_devices


@pytest.fixture
def nowhere(monkeypatch) -> Placement:
    """The placement on a CPU that says it is not there."""
    monkeypatch.setattr(Placement, "is_there", False)
    return Placement(jax.devices("cpu")[0])


def told(step):
    """What must be equal of a step that was compiled over arrays, and over shapes."""
    return step.name, step.why, step.memory, step.arguments, step.flops, step.hlo.count(" = ")


EVERY = [
    jl.callbacks.learning_rate_scheduler(jl.make_schedule(jl.one_cycle(0.1))),
    jl.callbacks.clip_by_global_norm(1.0),
    jl.callbacks.ema(0.9, evaluate=True),
    jl.callbacks.early_stopping(restore_best=True),
    jl.callbacks.reduce_on_plateau(hyperparameter="weight_decay"),
    jl.callbacks.stop_on_non_finite(),
]


def scalar_loss(output, target):
    return jnp.mean((output - jax.nn.one_hot(target, 3)) ** 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"steps_per_dispatch": "auto"},
        {"validation": None},
        {"validation": jl.in_batches(small.samples(7), 4)},
        {"validation": jl.in_batches(small.samples(7), 4), "loss_fn": scalar_loss},
        {
            "callbacks": EVERY,
            "optimizer": optax.inject_hyperparams(optax.adamw)(learning_rate=0.0, weight_decay=0.1),
            "steps_per_dispatch": 3,
        },
        {"training": [[small.samples(4)] * 3]},
        {"training": jl.TrainingEpochs(small.samples(12), 4, resident=True)},
        {"accumulate": 2, "compute_dtype": "bfloat16"},
    ],
    ids=["plain", "auto", "alone", "ragged", "scalar", "callbacks", "loader", "resident", "accumulate"],
)
def test_steps_over_shapes_are_those_over_arrays(changes, nowhere, monkeypatch):
    ahead = small.training_loop(**changes).compile(small.model(), epochs=2, on=nowhere)
    monkeypatch.undo()
    there = small.training_loop(**changes).compile(small.model(), epochs=2, on=Placement(nowhere.device))
    assert told(ahead.training) == told(there.training)
    if there.validation is None:
        assert ahead.validation is None
    else:
        assert told(ahead.validation) == told(there.validation)


@pytest.mark.slow
def test_they_are_over_several_devices_too_however_the_model_is_divided():
    run_on_devices(
        """
import sys
import jax, numpy as np, optax
from jax.sharding import Mesh, PartitionSpec as P
import jaxloop as jl
sys.path.insert(0, ".")
from tests import small
from tests.engine.test_ahead import EVERY, told

def rule(path, leaf):
    return P(None, "model") if leaf.ndim == 2 else P()

def training_loop():
    return small.training_loop(
        training=jl.TrainingEpochs(small.samples(64, features=64, classes=32), 16),
        validation=jl.in_batches(small.samples(12, features=64, classes=32), 12),
        callbacks=EVERY,
        optimizer=optax.inject_hyperparams(optax.adamw)(learning_rate=0.0, weight_decay=0.1),
        steps_per_dispatch=2,
    )

mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("data", "model"))
collectives = []
for place in (jl.data_parallel(), jl.fully_sharded(), jl.Placement(mesh, rule)):
    found = []
    for there in (True, False):
        jl.Placement.is_there = there
        compiled = training_loop().compile(small.model(features=64, classes=32), on=place)
        found.append([(told(step), step.collectives) for step in (compiled.training, compiled.validation)])
    assert found[0] == found[1], found
    collectives.append({one.kind: one.count for one in found[0][0][1]})
assert collectives[0] == {"all-reduce": 1}, collectives
assert collectives[1]["all-gather"] >= 1, collectives
""",
        8,
    )


class Net(nnx.Module):
    def __init__(self, rngs):
        self.dense = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x):
        return self.dense(x)


class LinenNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(x)


@pytest.mark.parametrize(
    "given",
    [lambda: Net(nnx.Rngs(0)), LinenNet, small.model, lambda: LinenNet().copy()],
    ids=["nnx", "linen", "model", "copy"],
)
def test_a_function_that_makes_the_model_makes_no_array(given, nowhere):
    given = LinenNet() if given is LinenNet else given
    training_loop = small.training_loop(optimizer=optax.adamw(1e-3))
    arrays = jax.live_arrays()  # kept, so that none of them goes meanwhile
    with jax.transfer_guard("disallow"):
        session, phases = look_ahead(training_loop.setup, given, 1, nowhere)
        found = list(phases)
    assert [entered.phase for entered in found] == [Phase.TRAINING, Phase.VALIDATION]
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves((session.loop, found[0].wire)))
    assert len(jax.live_arrays()) == len(arrays)


def test_the_plan_is_that_of_the_fit(nowhere):
    class Bound:
        plan = None

        def bind(self, plan):
            Bound.plan = plan
            return lambda loop, event: loop

    look_ahead(small.training_loop(callbacks=[Bound()]).setup, small.model(), 7, nowhere)
    assert Bound.plan is not None
    assert (Bound.plan.epoch_count, Bound.plan.batch_count, Bound.plan.total_steps) == (7, 3, 21)


def test_a_loop_goes_on(nowhere, monkeypatch):
    with monkeypatch.context() as there:
        there.setattr(Placement, "is_there", True)
        loop, _ = small.training_loop().fit(small.model(), 1)
    session, phases = look_ahead(small.training_loop().setup, loop, 1, nowhere)
    assert [entered.phase for entered in phases] == [Phase.TRAINING, Phase.VALIDATION]
    assert np.shape(session.loop.model.params["kernel"]) == (4, 3)
    assert isinstance(loop.model.params["kernel"], jax.Array)


def test_compiling_twice_compiles_once(nowhere):
    training_loop = small.training_loop()
    first = training_loop.compile(small.model(), on=nowhere)
    kept = len(training_loop.setup.programs)
    assert training_loop.compile(small.model(1), on=nowhere).training.hlo == first.training.hlo
    assert len(training_loop.setup.programs) == kept == 2


def test_what_is_wrong_with_model_or_callbacks_is_seen(nowhere):
    with pytest.raises(ValueError, match="validation_loss"):
        small.training_loop(validation=None, callbacks=[jl.callbacks.early_stopping()]).compile(
            small.model(), on=nowhere
        )
