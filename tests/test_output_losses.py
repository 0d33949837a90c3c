"""Losses by output: the weighted sum, each measured on its own, and what does not fit is refused by name."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxloop as jl
from jaxloop.losses import mean_squared_error, sigmoid_cross_entropy, softmax_cross_entropy
from jaxloop.output_losses import as_loss_fn
from tests.devices import run_on_devices

ROWS, BATCH = 53, 8
LOSSES = {"digit": softmax_cross_entropy, "parity": (sigmoid_cross_entropy, 0.5)}


def samples() -> Any:
    random = np.random.default_rng(0)
    inputs = random.normal(size=(ROWS, 5)).astype(np.float32)
    target = {"digit": random.integers(0, 3, ROWS), "parity": (inputs[:, 0] > 0).astype(np.float32)}
    weight = random.uniform(0.5, 2, ROWS).astype(np.float32)
    weight[::7] = 0
    inputs[::7] = np.nan
    target["digit"][::7] = -100
    return inputs, target, weight


def apply(params: Any, state: Any, input: Any, *, training: bool, key: Any) -> Any:
    return {"digit": input @ params["digit"], "parity": input @ params["parity"]}, state


def model() -> jl.Model:
    random = np.random.default_rng(1)
    params = {"digit": random.normal(size=(5, 3)), "parity": random.normal(size=(5, 1))}
    return jl.Model(apply, jax.tree.map(np.float32, params), {})


def training_loop(**options: Any) -> jl.TrainingLoop:
    defaults: dict[str, Any] = {"optimizer": optax.sgd(0.1), "loss_fn": LOSSES, "progress": False}
    return jl.TrainingLoop(jl.TrainingEpochs(samples(), BATCH), jl.in_batches(samples(), BATCH), **(defaults | options))


def losses_of(params: Any, rows: Any) -> tuple[Any, Any]:
    """The weighted mean loss of each output over rows, by hand."""
    inputs, target, weight = jax.tree.map(lambda leaf: leaf[rows], samples())
    counts = weight > 0
    inputs, weight = inputs[counts], weight[counts]
    digit = optax.softmax_cross_entropy_with_integer_labels(inputs @ params["digit"], target["digit"][counts])
    parity = optax.sigmoid_binary_cross_entropy((inputs @ params["parity"])[:, 0], target["parity"][counts])
    return jnp.sum(digit * weight) / weight.sum(), jnp.sum(parity * weight) / weight.sum()


@pytest.mark.parametrize("options", [{"steps_per_dispatch": 1}, {"accumulate": 2, "steps_per_dispatch": 3}])
def test_a_fit_equals_a_loop_by_hand(options: Any) -> None:
    trainer = training_loop(**options)
    loop, history = trainer.fit(model(), 1)
    params = model().params
    found = []
    for batch in range(ROWS // BATCH):
        rows = order(batch)
        gradient = jax.grad(lambda params, rows=rows: sum_of(losses_of(params, rows)))(params)
        found.append((*losses_of(params, rows), samples()[2][rows].sum()))
        params = jax.tree.map(lambda leaf, slope: leaf - 0.1 * slope, params, gradient)
    jax.tree.map(lambda one, two: np.testing.assert_allclose(one, two, rtol=2e-5, atol=1e-6), loop.model.params, params)
    digit, parity, weight = map(np.asarray, zip(*found, strict=True))
    expected = {"digit_loss": np.average(digit, weights=weight), "parity_loss": np.average(parity, weights=weight)}
    expected["loss"] = expected["digit_loss"] + 0.5 * expected["parity_loss"]
    whole = losses_of(params, slice(None))
    expected |= {"validation_digit_loss": whole[0], "validation_parity_loss": whole[1]}
    expected["validation_loss"] = sum_of(whole)
    for name, value in expected.items():
        assert history.epochs[name][-1] == pytest.approx(float(value), rel=1e-5), name
    evaluated = trainer.evaluate(loop, jl.in_batches(samples(), 10))
    assert evaluated == pytest.approx({name: float(expected[f"validation_{name}"]) for name in evaluated}, rel=1e-5)


def sum_of(losses: Any) -> Any:
    return losses[0] + 0.5 * losses[1]


def order(batch: int) -> np.ndarray:
    """The rows of a batch of the first epoch."""
    places = jl.TrainingEpochs((np.arange(ROWS), np.arange(ROWS)), BATCH)[0]
    return np.asarray(places[batch][0])


@pytest.mark.slow
def test_eight_devices_give_the_same() -> None:
    run_on_devices(
        """
import numpy as np
import jaxloop as jl
from tests.test_output_losses import model, training_loop

for steps in (1, 3):
    trainer = training_loop(steps_per_dispatch=steps, metrics=["digit_accuracy", "parity_auc"])
    one, several = (trainer.fit(model(), 2, on=on)[1].epochs for on in ("cpu", jl.data_parallel()))
    for name in one:
        if "seconds" not in name and "per_second" not in name:
            np.testing.assert_allclose(one[name], several[name], rtol=1e-5, err_msg=name)
""",
        8,
    )


def test_a_search_for_a_rate_and_metrics_by_name_know_the_outputs() -> None:
    trainer = training_loop(
        optimizer=optax.inject_hyperparams(optax.sgd)(learning_rate=0.1),
        metrics=["digit_accuracy", "digit_top2_accuracy", "digit_perplexity", "parity_f1"],
    )
    assert np.isfinite(jl.find_learning_rate(trainer, model(), steps=20).losses).any()
    found = trainer.evaluate(model(), jl.in_batches(samples(), 10))
    assert list(found) == [
        *("loss", "digit_loss", "parity_loss", "digit_accuracy", "digit_top2_accuracy", "digit_perplexity", "parity_f1")
    ]
    assert found["digit_perplexity"] == pytest.approx(np.exp(found["digit_loss"]), rel=1e-5)


def test_scalar_losses_count_by_examples() -> None:
    losses = {key: lambda output, target: jnp.mean(output) + 0 * jnp.sum(target) for key in ("digit", "parity")}
    inputs = np.nan_to_num(samples()[0])
    target = {"digit": np.zeros(ROWS), "parity": np.zeros(ROWS)}
    found = training_loop(loss_fn=losses).evaluate(model(), jl.in_batches((inputs, target), 10))
    output = model()(inputs)
    expected = {f"{key}_loss": float(np.mean(output[key])) for key in ("digit", "parity")}
    assert found == pytest.approx(expected | {"loss": sum(expected.values())}, abs=1e-6)


def test_outputs_in_a_tuple_go_by_place() -> None:
    loss_fn = as_loss_fn({0: softmax_cross_entropy, 1: (mean_squared_error, 2.0)})
    output, target = (jnp.zeros((4, 3)), jnp.ones((4, 2))), (jnp.zeros(4, int), jnp.zeros((4, 2)))
    np.testing.assert_allclose(loss_fn(output, target), np.full(4, np.log(3) + 2), rtol=1e-6)
    assert [metric.name for metric in jl.metrics.resolve(["output0_accuracy"], loss_fn)] == [
        *("loss", "output0_loss", "output1_loss", "output0_accuracy")
    ]


class Heads(NamedTuple):
    main: Any
    aside: Any


def test_one_target_is_that_of_all_outputs_and_fields_have_names() -> None:
    loss_fn = as_loss_fn({"main": softmax_cross_entropy, "aside": (softmax_cross_entropy, 0.3)})
    found = loss_fn(Heads(jnp.zeros((4, 3)), jnp.zeros((4, 3))), jnp.zeros(4, int))
    np.testing.assert_allclose(found, np.full(4, 1.3 * np.log(3)), rtol=1e-6)


def test_a_loss_that_weighs_nothing_is_measured_and_cannot_spoil_the_sum() -> None:
    loss_fn = as_loss_fn({"digit": softmax_cross_entropy, "bad": (lambda output, target: output * jnp.nan, 0)})
    output = {"digit": jnp.zeros((4, 3)), "bad": jnp.zeros(4)}
    assert np.isfinite(loss_fn(output, jnp.zeros(4, int))).all()


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        (
            {"digit": softmax_cross_entropy},
            r"output 'parity' has no loss; the outputs are 'digit', 'parity'.*'parity': N",
        ),
        (LOSSES | {"other": mean_squared_error}, r"loss_fn: the output has no part 'other', only 'digit', 'parity'"),
        ({"digit": None, "parity": None, "x": mean_squared_error}, r"no part 'x', only 'digit', 'parity'"),
    ],
)
def test_an_output_without_a_loss_and_a_loss_without_an_output_are_told_before_the_first_step(
    losses: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        training_loop(loss_fn=losses).fit(model(), 1)


def test_an_output_may_have_no_loss_on_purpose() -> None:
    trainer = training_loop(loss_fn={"digit": softmax_cross_entropy, "parity": None}, metrics=["parity_f1"])
    found = trainer.evaluate(model(), jl.in_batches(samples(), 10))
    assert list(found) == ["loss", "digit_loss", "parity_f1"]
    assert found["loss"] == pytest.approx(found["digit_loss"])


def test_losses_by_output_of_a_model_with_one_are_told() -> None:
    one = jl.Model(lambda params, state, input, *, training, key: (input @ params, state), np.ones((5, 3), "f4"), {})
    with pytest.raises(
        ValueError, match=r"losses for the outputs 'digit', 'parity', but .*one array of shape \[8, 3\]"
    ):
        training_loop().fit(one, 1)


def test_losses_of_several_shapes_cannot_be_added() -> None:
    loss_fn = as_loss_fn({"token": softmax_cross_entropy, "text": softmax_cross_entropy})
    output = {"token": jnp.zeros((4, 5, 3)), "text": jnp.zeros((4, 3))}
    with pytest.raises(ValueError, match=r"must have one shape.*'token' \[4, 5\], 'text' \[4\]. Let each give one"):
        loss_fn(output, {"token": jnp.zeros((4, 5), int), "text": jnp.zeros(4, int)})


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ({}, "`loss_fn` is a mapping without any loss"),
        ({"digit": None}, "`loss_fn` is a mapping without any loss"),
        ({"digit": 3}, "a function of .output, target., or the function and its weight, got 3 for 'digit'"),
        ({"digit": (softmax_cross_entropy, 1, 2)}, "or the function and its weight"),
        ({"digit": (softmax_cross_entropy, np.nan)}, "the weight of 'digit' must be a finite number, got nan"),
        ({"digit": (softmax_cross_entropy, "1")}, "the weight of 'digit' must be a finite number, got '1'"),
        ({1.5: softmax_cross_entropy}, "must be names of outputs, or their places in a tuple, got 1.5"),
        ({"validation": softmax_cross_entropy}, "in validation 'loss' is the statistic 'validation_loss', and so is"),
    ],
)
def test_bad_losses_are_refused_when_the_training_loop_is_made(losses: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        training_loop(loss_fn=losses)


def test_names_of_outputs_that_have_no_loss_are_not_known() -> None:
    with pytest.raises(ValueError, match=r"'dgit_accuracy' is not known. Known by name: .*digit_accuracy"):
        training_loop(metrics=["dgit_accuracy"])


def test_labels_of_each_output_are_checked_before_the_first_step() -> None:
    inputs, target, _ = samples()
    inputs, target = np.nan_to_num(inputs), target | {"digit": np.where(np.arange(ROWS) == 20, 3, 0)}
    trainer = jl.TrainingLoop(jl.TrainingEpochs((inputs, target), BATCH), optimizer=optax.sgd(0.1), loss_fn=LOSSES)
    with pytest.raises(ValueError, match=r"the samples' 'digit' target is 3 at \(20,\); with an output of 3 classes"):
        trainer.fit(model(), 1)
    target = {"digit": np.zeros(ROWS, int), "parity": np.where(np.arange(ROWS) == 20, np.nan, 0)}
    trainer = jl.TrainingLoop(jl.TrainingEpochs((inputs, target), BATCH), optimizer=optax.sgd(0.1), loss_fn=LOSSES)
    with pytest.raises(ValueError, match=r"target\['parity'\] is NaN at \(20,\)"):
        trainer.fit(model(), 1)
