"""Setting up: what a run begins with, and what is refused before it does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen

import jaxloop as jl
from jaxloop.callback import sort_out
from jaxloop.engine.setup import Setup, Start
from jaxloop.programs.programs import Programs
from tests import small


def setup(**changes) -> Setup:
    return small.training_loop(**changes)._setup


def begun(of: Setup, given, epochs: int = 2, **changes) -> Start:
    options = {"callbacks": (), "on": None, "seed": 0, "limit": None} | changes
    return of.fit(given, epochs, **options)


def test_the_plan_counts_the_batches_that_are_trained_on() -> None:
    assert begun(setup(), small.model()).plan == jl.Plan(2, 3, ("loss", "accuracy"), "batch")
    assert begun(setup(report="epoch"), small.model(), 4, limit=2).plan == jl.Plan(4, 2, ("loss", "accuracy"), "epoch")


@pytest.mark.parametrize("changes", [{}, {"validation": None}])
def test_a_fit_begins_with_all_statistics_not_yet_measured(changes) -> None:
    start = begun(setup(callbacks=[jl.callbacks.clip_by_global_norm(1.0)], **changes), small.model())
    names = ["accuracy", "gradient_norm", "learning_rate", "loss", "validation_accuracy", "validation_loss"]
    assert sorted(start.loop.stats) == names
    assert all(np.isnan(value) for value in start.loop.stats.values())


def test_the_loop_holds_the_plan_only_where_a_compiled_callback_is_bound_to_it() -> None:
    class Bound:
        def bind(self, plan):
            return lambda loop, event: loop

    assert begun(setup(), small.model()).loop.plan is None
    assert begun(setup(callbacks=[Bound()]), small.model()).loop.plan == jl.Plan(2, 3, ("loss", "accuracy"))


def test_the_same_callbacks_share_their_parts_and_others_do_not() -> None:
    one, other = jl.callbacks.clip_by_global_norm(1.0), jl.callbacks.clip_by_global_norm(1.0)
    of = setup()
    assert of.spec_for(sort_out([one]), None) is of.spec_for(sort_out([one]), None)
    assert of.spec_for(sort_out([one]), None) is not of.spec_for(sort_out([other]), None)


def test_the_abstract_trace_is_kept_from_fit_to_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    traces = []
    import jaxloop.engine.setup as module

    trace_fit = module.trace_fit
    monkeypatch.setattr(module, "trace_fit", lambda *arguments: traces.append(1) or trace_fit(*arguments))
    of = setup()
    begun(of, small.model())
    begun(of, small.model(), epochs=5)
    assert len(traces) == 1
    assert isinstance(of.programs, Programs)


@pytest.mark.parametrize("steps_per_dispatch", [1, 3, "auto"])
@pytest.mark.parametrize("callbacks", [[], [jl.callbacks.clip_by_global_norm(1.0)]], ids=["plain", "recording"])
def test_loss_and_model_are_traced_once_for_each_phase(steps_per_dispatch, callbacks) -> None:
    traces = []

    def loss_fn(output, target):
        traces.append(1)
        return jl.losses.softmax_cross_entropy(output, target)

    training_loop = small.training_loop(loss_fn=loss_fn, callbacks=callbacks, steps_per_dispatch=steps_per_dispatch)
    training_loop.fit(small.model(), 2)
    assert len(traces) == 2


def test_an_evaluation_of_other_batches_than_the_first_is_right_too() -> None:
    training_loop, others = small.training_loop(), jl.in_batches(small.samples(6), 6)
    training_loop.evaluate(small.model(), jl.in_batches(small.samples(8), 4))
    assert training_loop.evaluate(small.model(), others) == small.training_loop().evaluate(small.model(), others)


def test_a_fit_under_another_precision_has_programs_of_that_precision() -> None:
    training_loop = small.training_loop()
    training_loop.fit(small.model(), 1)
    with jax.default_matmul_precision("highest"):
        training_loop.fit(small.model(), 1)
        dispatches, wire = small.dispatches_of(training_loop)
        batch = dispatches.feed.travelling(dispatches.feed.first(), 1)
        text = str(dispatches.program(1).jitted.trace(wire, batch, None).jaxpr)
    assert "HIGHEST" in text


@pytest.mark.parametrize("seed", [0, 7, -1, 2**31, 2**40, -(2**63), np.int64(5), np.uint32(2**32 - 1)])
@pytest.mark.parametrize(
    "told",
    [{}, {"jax_enable_x64": True}, {"jax_default_prng_impl": "rbg"}, {"jax_random_seed_offset": 3}],
    ids=lambda told: next(iter(told), "defaults"),
)
def test_the_key_of_a_run_is_that_of_its_seed(told, seed) -> None:
    before = {name: getattr(jax.config, name) for name in told}
    try:
        for name, value in told.items():
            jax.config.update(name, value)
        key = begun(setup(), small.model(), seed=seed).loop.key
        expected = jax.random.key(seed)
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
    assert key.dtype == expected.dtype
    np.testing.assert_array_equal(jax.random.key_data(key), jax.random.key_data(expected))


@pytest.mark.parametrize("seed", [1.5, "7", None])
def test_a_seed_that_is_no_whole_number_is_refused(seed) -> None:
    with pytest.raises(TypeError, match=r"seed: it must be a whole number, got"):
        begun(setup(), small.model(), seed=seed)


@pytest.mark.parametrize(("training", "validation"), [([[]], None), ([[small.samples(4)]], [])])
def test_data_without_a_batch_is_refused(training, validation) -> None:
    with pytest.raises(ValueError, match=r"(training|validation): there is no batch"):
        begun(setup(training=training, validation=validation), small.model())


class Centred(linen.Module):
    """A layer after the mean of the input with which it was initialized."""

    @linen.compact
    def __call__(self, input):
        mean = self.variable("data", "mean", lambda: input.mean(axis=0))
        return linen.Dense(3)(input - mean.value)


def widened(batch):
    images, labels = batch
    return jnp.concatenate([images, images**2], axis=-1), labels


@pytest.mark.parametrize("batch_size", [2, 4], ids=["batch of 2", "batch of as many as features"])
@pytest.mark.parametrize("resident", [True, False], ids=["resident", "travelling"])
@pytest.mark.parametrize("mapped", [True, False], ids=["mapped", "as it is"])
def test_a_linen_model_is_initialized_from_the_input_that_it_sees(batch_size, resident, mapped) -> None:
    samples = small.samples(8)
    plain = jl.TrainingEpochs(samples, batch_size)
    training = jl.TrainingEpochs(samples, batch_size, resident=resident)
    input = plain[0][0][0]
    if mapped:
        training, input = training.map(widened, compiled=True), widened(plain[0][0])[0]
    loop = begun(setup(training=training, validation=None), Centred(), seed=3).loop
    expected = jax.jit(Centred().init)(jax.random.key(3), input)
    np.testing.assert_allclose(loop.model.state["data"]["mean"], expected["data"]["mean"], rtol=1e-6)
    small.assert_trees_equal(loop.model.params, expected["params"])


def test_a_linen_model_is_initialized_so_for_an_evaluation_too() -> None:
    batches = jl.in_batches(small.samples(8), 4).map(widened, compiled=True)
    measured = small.training_loop().evaluate(Centred(), batches)
    variables = Centred().init(jax.random.key(0), widened(jl.in_batches(small.samples(8), 4)[0])[0])
    expected = small.training_loop().evaluate(jl.Model.from_linen(Centred(), variables), batches)
    assert measured == pytest.approx(expected, rel=1e-5)
