"""Each optimizer of optax and optax.contrib trains as in a plain loop by hand, or is refused by name."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib

import jaxloop as jl
from jaxloop.optimizer import asked_for
from tests import small

EPOCHS = jl.TrainingEpochs(small.samples(32), batch_size=4)
RATE = 0.05

#: What takes more than a learning rate, or none.
SPECIAL: dict[str, Callable[[], Any]] = {
    "polyak_sgd": lambda: optax.polyak_sgd(),
    "schedule_free": lambda: contrib.schedule_free(optax.sgd(RATE), RATE),
    "mechanize": lambda: contrib.mechanize(optax.sgd(1.0)),
    "noisy_sgd": lambda: optax.noisy_sgd(RATE, key=0),
    "sam": lambda: contrib.sam(optax.sgd(RATE), optax.chain(contrib.normalize(), optax.sgd(0.05))),
    "sam, opaque": lambda: contrib.sam(
        optax.sgd(RATE), optax.chain(contrib.normalize(), optax.sgd(0.05)), opaque_mode=True
    ),
    "sam in a chain": lambda: optax.chain(optax.clip(1.0), SPECIAL["sam"]()),
    "reduce_on_plateau": lambda: optax.chain(optax.sgd(RATE), contrib.reduce_on_plateau(patience=2)),
    "split_real_and_imaginary": lambda: contrib.split_real_and_imaginary(optax.adam(RATE)),
    "backtracking line search": lambda: optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(10)),
    "MultiSteps": lambda: optax.MultiSteps(optax.adam(RATE), every_k_schedule=2),
    "MultiSteps of L-BFGS": lambda: optax.MultiSteps(optax.lbfgs(), every_k_schedule=2),
    "inject_hyperparams of L-BFGS": lambda: optax.inject_hyperparams(
        optax.lbfgs, static_args=("memory_size", "scale_init_precond")
    )(learning_rate=0.5),
    "polyak_sgd, injected": lambda: optax.inject_hyperparams(optax.polyak_sgd)(max_learning_rate=0.5),
    "partition": lambda: optax.partition(
        {"a": optax.adam(RATE), "b": optax.polyak_sgd()}, {"kernel": "a", "bias": "b"}
    ),
    "freeze": lambda: optax.chain(optax.sgd(RATE), optax.freeze({"kernel": False, "bias": True})),
    "apply_if_finite": lambda: optax.apply_if_finite(optax.adam(RATE), 3),
    "flatten": lambda: optax.flatten(optax.adam(RATE)),
    "apply_every": lambda: optax.chain(optax.apply_every(2), optax.sgd(RATE)),
}
REFUSED = {"lookahead", "dpsgd", "differentially_private_aggregate"}


def with_a_rate() -> dict[str, Any]:
    """The optimizers that take a learning rate, by name."""
    found = {}
    for module in (optax, contrib):
        for name, function in inspect.getmembers(module, inspect.isfunction):
            signature = inspect.signature(function)
            gives = "GradientTransformation" in str(signature.return_annotation)
            if gives and "learning_rate" in signature.parameters and not name.startswith(("scale", "_")):
                found[name] = function
    return found


def optimizer_of(name: str) -> Any:
    if name in SPECIAL:
        return SPECIAL[name]()
    function = with_a_rate()[name]
    required = inspect.signature(function).parameters["learning_rate"].default is inspect.Parameter.empty
    return function(learning_rate=RATE) if required else function()


def train_by_hand(name: str, epochs: int = 1) -> Any:
    """Parameters of a plain loop that gives each optimizer what its documentation says."""
    optimizer, params = optimizer_of(name), jax.tree.map(jnp.asarray, small.model().params)
    state = optimizer.init(params)

    @jax.jit
    def step(params: Any, state: Any, input: Any, target: Any) -> Any:
        def loss(params: Any) -> Any:
            logits = input @ params["kernel"] + params["bias"]
            return optax.softmax_cross_entropy_with_integer_labels(logits, target).mean()

        value, gradient = jax.value_and_grad(loss)(params)
        if "bfgs" in name.lower() or "line search" in name:
            extra = {"value": value, "grad": gradient, "value_fn": loss}
        elif name == "sophia":
            extra = {"obj_fn": loss}
        elif name.startswith("sam"):
            extra = {"grad_fn": lambda params, _: jax.grad(loss)(params)} if name == "sam, opaque" else {}
        elif name.startswith(("momo", "polyak", "reduce_on_plateau", "partition")):
            extra = {"value": value}
        else:
            extra = {}
        updates, state = optimizer.update(gradient, state, params, **extra)
        return optax.apply_updates(params, updates), state

    for epoch in range(epochs):
        for input, target in EPOCHS[epoch]:
            params, state = step(params, state, input, target)
    return params


NAMES = sorted((with_a_rate().keys() | SPECIAL.keys()) - REFUSED)
#: One of each kind; the others take as long, and say the same.
QUICK = {"adamw", "lbfgs", "polyak_sgd", "sam, opaque", "sam in a chain", "schedule_free", "mechanize", "muon"}


def cases() -> list[Any]:
    marks = dict.fromkeys(set(NAMES) - QUICK, (pytest.mark.slow,))
    return [pytest.param(name, marks=marks.get(name, ())) for name in NAMES]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", cases())
def test_an_optimizer_trains_as_in_a_plain_loop(name: str) -> None:
    expected = train_by_hand(name)
    for steps in (1, 8):
        training_loop = small.training_loop(
            training=EPOCHS, validation=None, optimizer=optimizer_of(name), metrics=[], steps_per_dispatch=steps
        )
        loop, _ = training_loop.fit(small.model(), 1)
        assert int(loop.model.state["passes"]) == 8, "a line search leaves no trace in the state"
        assert_close(loop.model.params, expected)


def assert_close(one: Any, other: Any) -> None:
    for leaf, other_leaf in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(leaf, other_leaf, rtol=2e-5, atol=2e-6)


def transformation(init: Any, update: Any) -> optax.GradientTransformationExtraArgs:
    """An optimizer whose update takes what the types of optax do not tell."""
    return optax.GradientTransformationExtraArgs(init, update)


def test_multi_steps_averages_the_means_of_batches_and_clips_each_of_them() -> None:
    input, target = small.samples(8)
    weight = np.array([1, 1, 1, 1, 1, 0, 0, 0], np.float32)
    batches = [(input[at : at + 4], target[at : at + 4], weight[at : at + 4]) for at in (0, 4)]

    def gradient(*batch: Any) -> Any:
        def loss(params: Any) -> Any:
            logits = batch[0] @ params["kernel"] + params["bias"]
            each = optax.softmax_cross_entropy_with_integer_labels(logits, batch[1])
            return (each * batch[2]).sum() / batch[2].sum()

        return jax.grad(loss)(small.model().params)

    def trained(inner: Any, *callbacks: Any) -> Any:
        training_loop = small.training_loop(
            training=[batches], optimizer=optax.MultiSteps(inner, 2), callbacks=callbacks, validation=None
        )
        params = training_loop.fit(small.model(), 1)[0].model.params
        return jax.tree.map(lambda before, after: before - after, small.model().params, params)

    each = [gradient(*batch) for batch in batches]
    mean = jax.tree.map(lambda one, other: (one + other) / 2, *each)
    norms = [float(optax.tree.norm(part)) for part in (*each, mean)]
    of_all = gradient(input, target, weight)
    assert float(optax.tree.norm(optax.tree.sub(mean, of_all))) > 0.2 * float(optax.tree.norm(of_all)), (
        "not the gradient of the mean"
    )
    assert_close(trained(optax.sgd(1.0)), mean)
    clipped = jax.tree.map(lambda one, other: (one / norms[0] + other / norms[1]) * 0.05, *each)
    assert_close(trained(optax.sgd(1.0), jl.callbacks.clip_by_global_norm(0.1)), clipped)
    inside = optax.chain(optax.clip_by_global_norm(0.1), optax.sgd(1.0))
    assert_close(trained(inside), jax.tree.map(lambda leaf: leaf * 0.1 / norms[2], mean))


@pytest.mark.parametrize(
    "make",
    [
        lambda: contrib.dpsgd(0.1, 1.0, 0.0, seed=0),
        lambda: optax.MultiSteps(contrib.differentially_private_aggregate(1.0, 0.0, key=0), 2),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("features", [4, 7])
def test_rows_of_a_gradient_are_never_taken_for_examples(make: Any, features: int) -> None:
    training_loop = small.training_loop(
        training=jl.TrainingEpochs(small.samples(12, features=features), 4), optimizer=make(), validation=None
    )
    with pytest.raises(TypeError, match=r"differentially_private_aggregate.*per_example_grad_fn"):
        training_loop.fit(small.model(features=features), 1)


def test_pairs_of_parameters_are_refused_by_name() -> None:
    training_loop = small.training_loop(optimizer=optax.lookahead(optax.sgd(0.1), 5, 0.5))
    with pytest.raises(TypeError, match=r"optax\.lookahead updates pairs of fast and slow parameters"):
        training_loop.fit(small.model(), 1)


def demanding() -> optax.GradientTransformationExtraArgs:
    def update(updates: Any, state: Any, params: Any = None, *, temperature: Any, **extra: Any) -> Any:
        return updates, state

    return transformation(lambda params: (), update)


def test_a_keyword_that_no_step_knows_is_refused_when_the_training_loop_is_made() -> None:
    with pytest.raises(TypeError, match="its update requires 'temperature', which a step does not know"):
        small.training_loop(optimizer=demanding())


def test_a_keyword_that_no_step_knows_is_refused_in_a_chain_before_the_first_step() -> None:
    training_loop = small.training_loop(optimizer=optax.chain(optax.sgd(0.1), demanding()))
    with pytest.raises(TypeError, match="its update requires 'temperature', which a step does not know"):
        training_loop.fit(small.model(), 1)


def test_what_one_part_of_a_chain_refuses_and_another_requires_is_named() -> None:
    training_loop = small.training_loop(optimizer=optax.chain(SPECIAL["sam"](), optax.polyak_sgd()))
    with pytest.raises(TypeError, match="its update requires 'value'"):
        training_loop.fit(small.model(), 1)


def test_a_type_error_of_the_optimizers_own_stays_what_it_is() -> None:
    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        raise TypeError("my own")

    training_loop = small.training_loop(optimizer=transformation(lambda params: (), update))
    with pytest.raises(TypeError, match="my own"):
        training_loop.fit(small.model(), 1)


def test_an_optimizer_is_asked_by_its_signature() -> None:
    def update(updates: Any, state: Any, params: Any = None, *, value: Any, obj_fn: Any = None, other: Any = 1) -> Any:
        return updates, state

    assert asked_for(transformation(lambda params: (), update)) == {"value", "obj_fn"}
    assert asked_for(optax.identity()) == set()
    assert "grad_fn" in asked_for(optax.adam(0.1))
