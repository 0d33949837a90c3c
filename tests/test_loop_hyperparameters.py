"""The optimizer's hyperparameters, read and changed through a loop."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest


def with_optimizer(loop, optimizer):
    return loop.replace(opt_state=optimizer.init(loop.model.params))


INJECTED = optax.inject_hyperparams(optax.sgd)(learning_rate=0.25, momentum=0.9)
NESTED = {
    "alone": INJECTED,
    "in a chain": optax.chain(optax.clip(1.0), INJECTED),
    "in chains": optax.chain(optax.chain(optax.clip(1.0), optax.chain(INJECTED)), optax.identity()),
    "masked": optax.masked(INJECTED, {"weight": True, "bias": False}),
    "in many steps": optax.MultiSteps(INJECTED, 2).gradient_transformation(),
    "for some parameters": optax.multi_transform(
        {"one": INJECTED, "other": optax.adam(0.1)}, {"weight": "one", "bias": "other"}
    ),
}


@pytest.mark.parametrize("optimizer", NESTED.values(), ids=NESTED)
def test_a_hyperparameter_is_found_however_deep(loop, optimizer):
    assert with_optimizer(loop, optimizer).hyperparameter("learning_rate") == 0.25


@pytest.mark.parametrize("optimizer", NESTED.values(), ids=NESTED)
def test_a_hyperparameter_is_changed_however_deep(loop, optimizer):
    after = with_optimizer(loop, optimizer).with_hyperparameter("learning_rate", 0.5)
    assert after.hyperparameter("learning_rate") == 0.5


def test_changing_a_hyperparameter_leaves_the_others(loop):
    after = with_optimizer(loop, INJECTED).with_hyperparameter("learning_rate", 0.5)
    assert after.hyperparameter("momentum") == pytest.approx(0.9)


def test_changing_a_hyperparameter_changes_the_update(loop):
    optimizer = optax.chain(optax.identity(), optax.inject_hyperparams(optax.sgd)(learning_rate=0.25))
    after = with_optimizer(loop, optimizer).with_hyperparameter("learning_rate", 0.5)
    gradient = jax.tree.map(jnp.ones_like, loop.model.params)
    updates, _ = optimizer.update(gradient, after.opt_state, loop.model.params)
    np.testing.assert_array_equal(updates["weight"], np.full((3, 2), -0.5))


def test_a_changed_hyperparameter_keeps_its_type(loop):
    before = with_optimizer(loop, INJECTED)
    after = before.with_hyperparameter("learning_rate", 1)
    assert after.hyperparameter("learning_rate").dtype == before.hyperparameter("learning_rate").dtype == jnp.float32


def test_a_hyperparameter_can_be_changed_to_a_traced_value(loop):
    before = with_optimizer(loop, INJECTED)
    change = jax.jit(lambda rate: before.with_hyperparameter("learning_rate", rate).hyperparameter("learning_rate"))
    assert change(0.125) == 0.125


def test_a_schedule_inside_the_optimizer_can_be_read(loop):
    scheduled = optax.inject_hyperparams(optax.sgd)(learning_rate=optax.linear_schedule(0.5, 0.0, 10))
    assert with_optimizer(loop, scheduled).hyperparameter("learning_rate") == 0.5


def test_a_schedule_inside_the_optimizer_is_not_overwritten(loop):
    scheduled = optax.inject_hyperparams(optax.sgd)(learning_rate=optax.linear_schedule(0.5, 0.0, 10))
    with pytest.raises(ValueError, match=r"drives 'learning_rate' by a schedule of its own. Give .* a number"):
        with_optimizer(loop, scheduled).with_hyperparameter("learning_rate", 0.1)


def test_a_constant_beside_a_schedule_can_be_changed(loop):
    scheduled = optax.linear_schedule(0.5, 0.0, 10)
    optimizer = optax.inject_hyperparams(optax.sgd)(learning_rate=scheduled, momentum=0.9)
    after = with_optimizer(loop, optimizer).with_hyperparameter("momentum", 0.5)
    assert after.hyperparameter("momentum") == 0.5


@pytest.mark.parametrize("method", ["hyperparameter", "with_hyperparameter"])
def test_two_rates_are_refused(loop, method):
    two = optax.chain(INJECTED, optax.inject_hyperparams(optax.scale_by_learning_rate)(learning_rate=0.1))
    value = (0.1,) if method == "with_hyperparameter" else ()
    with pytest.raises(ValueError, match=r"2 parts of the optimizer expose 'learning_rate'"):
        getattr(with_optimizer(loop, two), method)("learning_rate", *value)


def test_a_hyperparameter_that_is_not_there_is_refused_with_the_fix(loop):
    with pytest.raises(ValueError, match=r"no 'learning_rate'. Make it as `optax.inject_hyperparams\(optax.sgd\)"):
        with_optimizer(loop, optax.sgd(0.1)).hyperparameter("learning_rate")


def test_a_hyperparameter_that_is_not_there_is_refused_with_those_that_are(loop):
    with pytest.raises(ValueError, match=r"no 'b1', only learning_rate, momentum. .*\(learning_rate=0.1, b1=0.1\)"):
        with_optimizer(loop, optax.chain(optax.clip(1.0), INJECTED)).hyperparameter("b1")


def test_a_fraction_is_refused_where_the_optimizer_keeps_an_integer(loop):
    whole = with_optimizer(loop, optax.inject_hyperparams(optax.sgd)(learning_rate=1))
    message = r"'learning_rate' is a whole number in the optimizer, int32, .* Make it a float"
    with pytest.raises(ValueError, match=message):
        whole.with_hyperparameter("learning_rate", 0.5)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda rate: whole.with_hyperparameter("learning_rate", rate), jnp.float32(0.5))
    assert whole.with_hyperparameter("learning_rate", 2).hyperparameter("learning_rate") == 2


def test_a_parameter_named_like_a_hyperparameter_is_not_mistaken_for_it(loop):
    params = {"learning_rate": jnp.zeros(2), "hyperparams": {"learning_rate": jnp.ones(2)}}
    opt_state = optax.inject_hyperparams(optax.adam)(learning_rate=0.25).init(params)
    assert loop.replace(opt_state=opt_state).hyperparameter("learning_rate") == 0.25


LABELLED = optax.partition(
    {"one": INJECTED, "other": optax.inject_hyperparams(optax.adam)(learning_rate=0.5), "none": optax.set_to_zero()},
    {"weight": "one", "bias": "other"},
)


def test_a_hyperparameter_of_a_group_is_read_and_changed_by_its_label(loop):
    before = with_optimizer(loop, LABELLED)
    after = before.with_hyperparameter("learning_rate", 0.75, group="other")
    assert before.hyperparameters("learning_rate") == {"one": 0.25, "other": 0.5}
    assert after.hyperparameters("learning_rate") == {"one": 0.25, "other": 0.75}
    assert after.hyperparameter("learning_rate", group="other") == 0.75
    assert after.hyperparameter("momentum") == after.hyperparameter("momentum", group="one") == np.float32(0.9)


def test_every_group_of_a_hyperparameter_is_told_and_can_be_given_back(loop):
    assert with_optimizer(loop, INJECTED).hyperparameters("learning_rate") == {None: 0.25}
    assert with_optimizer(loop, optax.sgd(0.1)).hyperparameters("learning_rate") == {}
    for optimizer in (INJECTED, LABELLED):
        before = after = with_optimizer(loop, optimizer)
        for group, rate in before.hyperparameters("learning_rate").items():
            after = after.with_hyperparameter("learning_rate", rate / 2, group=group)
        halves = {group: rate / 2 for group, rate in before.hyperparameters("learning_rate").items()}
        assert after.hyperparameters("learning_rate") == halves


@pytest.mark.parametrize("method", ["hyperparameter", "with_hyperparameter"])
def test_a_group_that_is_not_there_is_refused_with_those_that_are(loop, method):
    value = (0.1,) if method == "with_hyperparameter" else ()
    ask = getattr(with_optimizer(loop, LABELLED), method)
    with pytest.raises(ValueError, match=rf"^Loop\.{method}: no group 'none' .* there are 'one', 'other'"):
        ask("learning_rate", *value, group="none")
    with pytest.raises(ValueError, match=rf"^Loop\.{method}: 2 parts .* the groups 'one', 'other'. .* by group='one'"):
        ask("learning_rate", *value)
    with pytest.raises(ValueError, match=r"Write 'learning_rate' and group='one'\."):
        ask("learning_rate/one", *value)
