"""Predictions: one output for each example, from batches or from the arrays themselves."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxloop as jl
from tests import small

MODEL = small.model()
INPUTS, LABELS = small.samples(10)
PLAIN = np.asarray(MODEL(INPUTS))


@pytest.fixture(scope="module")
def training_loop() -> jl.TrainingLoop:
    return small.training_loop()


def twice(batch: Any) -> Any:
    return (2 * batch[0], batch[1]) if isinstance(batch, tuple) else 2 * batch


@pytest.mark.parametrize("make", [np.asarray, jnp.asarray])
def test_an_array_is_all_examples(training_loop: jl.TrainingLoop, make: Any) -> None:
    predicted = training_loop.predict(MODEL, make(INPUTS))
    assert predicted.shape == (10, 3)
    np.testing.assert_allclose(predicted, PLAIN, rtol=1e-5, atol=1e-6)


def test_as_many_examples_as_fill_several_batches_come_in_their_order(training_loop: jl.TrainingLoop) -> None:
    inputs = small.samples(600)[0]
    np.testing.assert_allclose(training_loop.predict(MODEL, inputs), MODEL(inputs), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "batches",
    [[INPUTS[:4], INPUTS[4:8], INPUTS[8:]], [(INPUTS[:6], LABELS[:6]), (INPUTS[6:], LABELS[6:])]],
    ids=["inputs", "pairs"],
)
def test_a_list_is_one_of_batches(training_loop: jl.TrainingLoop, batches: Any) -> None:
    np.testing.assert_allclose(training_loop.predict(MODEL, batches), PLAIN, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("samples", [INPUTS, (INPUTS, LABELS)], ids=["inputs", "pairs"])
@pytest.mark.parametrize("compiled", [True, False])
def test_batches_pass_through_their_map(training_loop: jl.TrainingLoop, samples: Any, compiled: bool) -> None:
    batches = jl.in_batches(samples, 4).map(twice, compiled=compiled)
    np.testing.assert_allclose(training_loop.predict(MODEL, batches), MODEL(2 * INPUTS), rtol=1e-5, atol=1e-6)


def test_samples_that_stay_on_the_device_are_gathered_there(training_loop: jl.TrainingLoop) -> None:
    batches = jl.TrainingEpochs(INPUTS, 5, resident=True)[0]
    expected = np.concatenate([MODEL(batch) for batch in jl.TrainingEpochs(INPUTS, 5)[0]])
    np.testing.assert_allclose(training_loop.predict(MODEL, batches), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("samples", [(INPUTS, LABELS), (INPUTS,), (jnp.asarray(INPUTS), LABELS)])
def test_a_tuple_of_arrays_is_refused_with_the_lines_to_write(training_loop: jl.TrainingLoop, samples: Any) -> None:
    with pytest.raises(
        TypeError, match=r"^predict: expected batches, got a tuple of arrays. Write predict\(loop, inputs"
    ):
        training_loop.predict(MODEL, samples)


def of_parts(params: Any, state: Any, input: Any, *, training: bool, key: Any) -> tuple[Any, Any]:
    return {"logits": (input["left"] + input["right"]) @ params["kernel"] + params["bias"]}, state


def test_a_mapping_of_arrays_is_all_examples(training_loop: jl.TrainingLoop) -> None:
    half = {"left": INPUTS / 2, "right": INPUTS / 2}
    predicted = training_loop.predict(MODEL.replace(apply=of_parts), half)
    np.testing.assert_allclose(predicted["logits"], PLAIN, rtol=1e-5, atol=1e-6)


def test_a_mapping_is_taken_apart_by_its_keys() -> None:
    training_loop = small.training_loop(batch_keys=("image", "label"))
    predicted = training_loop.predict(MODEL, {"image": INPUTS, "label": LABELS})
    np.testing.assert_allclose(predicted, PLAIN, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("reduce", "message"),
    [
        (jnp.mean, r"the model's output is of shape \(\) for a batch of 10 examples"),
        (lambda output: {"mean": jnp.mean(output), "all": output}, r"the model's output\['mean'\] is of shape \(\)"),
        (lambda output: output.sum(axis=0), r"the model's output is of shape \(3,\) for a batch of 10 examples"),
    ],
    ids=["scalar", "in a tree", "by class"],
)
def test_an_output_that_is_not_one_per_example_is_refused_by_name(reduce: Any, message: str) -> None:
    def apply(params: Any, state: Any, input: Any, *, training: bool, key: Any) -> tuple[Any, Any]:
        return reduce(small.apply(params, state, input, training=training, key=key)[0]), state

    with pytest.raises(ValueError, match=f"^predict: {message}"):
        small.training_loop().predict(MODEL.replace(apply=apply), INPUTS)


def test_outputs_of_several_graphs_in_a_batch_follow_each_other_uncut(training_loop: jl.TrainingLoop) -> None:
    def apply(params: Any, state: Any, input: Any, *, training: bool, key: Any) -> tuple[Any, Any]:
        return jnp.zeros((3, 3)).at[input["graph"]].add(input["nodes"] @ params["kernel"]), state

    nodes, graph = small.samples(4)[0], np.array([0, 0, 1, 2])
    batches = [({"nodes": nodes, "graph": graph}, np.zeros(3, np.int32))] * 2
    predicted = training_loop.predict(MODEL.replace(apply=apply), batches)
    assert predicted.shape == (6, 3)
    np.testing.assert_allclose(predicted[4], nodes[2] @ MODEL.params["kernel"], rtol=1e-5, atol=1e-6)


def test_outputs_are_fetched_as_they_come_and_do_not_stay_on_the_device(training_loop: jl.TrainingLoop) -> None:
    held: list[Any] = []
    alive: list[int] = []

    class Batches:
        def __len__(self) -> int:
            return 12

        def __iter__(self) -> Any:
            for _ in range(12):
                alive.append(sum(array.shape == (5, 3) for array in jax.live_arrays()))
                yield INPUTS[:5]

    held.append(training_loop.predict(MODEL, Batches()))
    assert held[0].shape == (60, 3)
    assert max(alive[3:]) - alive[0] <= 2
