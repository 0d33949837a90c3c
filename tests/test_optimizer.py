"""Each optimizer of optax and optax.contrib trains as in a plain loop by hand, or is refused by name."""

from typing import Any

import jax
import numpy as np
import optax
import pytest
from optax import contrib

import jaxloop as jl
from jaxloop.optimizer import asked_for
from tests import small

#: What takes more than a learning rate, or none.


#: One of each kind; the others take as long, and say the same.


def assert_close(one: Any, other: Any) -> None:
    for leaf, other_leaf in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(leaf, other_leaf, rtol=2e-5, atol=2e-6)


def transformation(init: Any, update: Any) -> optax.GradientTransformationExtraArgs:
    """An optimizer whose update takes what the types of optax do not tell."""
    return optax.GradientTransformationExtraArgs(init, update)


@pytest.mark.slow
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
    sharpness_aware = contrib.sam(optax.sgd(0.05), optax.chain(contrib.normalize(), optax.sgd(0.05)))
    training_loop = small.training_loop(optimizer=optax.chain(sharpness_aware, optax.polyak_sgd()))
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
