"""Tests of arrays where epochs or batches are meant."""

from typing import Any

import jax
import numpy as np
import optax
import pandas
import pytest

import jaxloop as jl
from jaxloop.data.arrays import are_samples, as_batches, as_epochs, as_inputs
from tests import small

X, Y = small.samples(70)
PAIR = (X[:4], Y[:4])


@pytest.mark.parametrize(
    ("data", "keys", "expected"),
    [
        ((X, Y), None, True),
        ((X, Y, np.ones(70)), None, True),
        (((X, X), Y), None, True),
        (({"a": X, "b": X}, Y), None, True),
        (({"a": X}, {"digit": Y}), None, True),
        ((X, None), None, True),
        ((pandas.DataFrame(X), pandas.Series(Y)), None, True),
        ({"image": X, "label": Y}, ("image", "label"), True),
        ({"image": {"a": X}, "label": {"b": Y}}, ("image", "label"), True),
        ({"image": (X, Y), "text": (X, Y)}, ("image", "label"), False),
        (({"a": X}, {"a": X}), ("a",), False),
        ((PAIR, PAIR), None, False),
        ([PAIR, PAIR], None, False),
        ([X, Y], None, False),
        (X, None, False),
        (None, None, False),
        (jl.in_batches((X, Y), 4), None, False),
    ],
)
def test_what_is_taken_for_samples(data: Any, keys: Any, expected: bool) -> None:
    assert are_samples(data, keys) is expected


def test_training_arrays_become_shuffled_epochs() -> None:
    epochs = as_epochs((X, Y), None)
    expected = jl.TrainingEpochs((X, Y), 32)
    jax.tree.map(np.testing.assert_array_equal, list(epochs[3]), list(expected[3]))
    assert as_epochs((X[:5], Y[:5]), None).batch_size == 5
    assert as_epochs((X, Y), 7).batch_size == 7


def test_other_arrays_become_batches_in_their_order() -> None:
    assert [len(batch[0]) for batch in as_batches((X, Y), 32)] == [32, 32, 6]
    assert [len(batch[0]) for batch in as_batches((np.repeat(X, 8, 0), np.repeat(Y, 8)), None)] == [256, 256, 48]
    assert [len(batch) for batch in as_inputs(X, 32)] == [32, 32, 6]


@pytest.mark.parametrize("size", [0, -3, 1.5, True])
def test_a_wrong_size_is_refused(size: Any) -> None:
    for make in (as_epochs, as_batches):
        with pytest.raises(ValueError, match="batch_size: it must be a whole number of at least 1"):
            make((X, Y), size)


def test_a_fit_on_arrays_equals_one_on_epochs() -> None:
    arrays = small.training_loop(training=(X, Y), validation=(X[:20], Y[:20]))
    loop, history = arrays.fit(small.model(), 2)
    epochs = small.training_loop(
        training=jl.TrainingEpochs((X, Y), 32), validation=jl.in_batches((X[:20], Y[:20]), 256)
    )
    expected, expected_history = epochs.fit(small.model(), 2)
    jax.tree.map(np.testing.assert_array_equal, loop.model.params, expected.model.params)
    np.testing.assert_array_equal(history.epochs["validation_loss"], expected_history.epochs["validation_loss"])
    assert arrays.evaluate(loop, (X, Y)) == arrays.evaluate(loop, jl.in_batches((X, Y), 256))
    np.testing.assert_array_equal(arrays.predict(loop, X, batch_size=32), loop.model(X))


def test_a_mapping_of_arrays_needs_the_keys_of_its_parts() -> None:
    mapping = {"image": X, "label": Y}
    training_loop = small.training_loop(training=mapping, validation=mapping, batch_keys=("image", "label"))
    _, history = training_loop.fit(small.model(), 1)
    assert np.isfinite(history.epochs["validation_loss"]).all()
    with pytest.raises(ValueError, match="a batch is a mapping of image, label; say which"):
        small.training_loop(training=mapping).fit(small.model(), 1)


def test_a_mapping_may_have_trees_of_arrays_for_parts() -> None:
    nested = {"image": {"pixels": X}, "label": {"digit": Y}}
    one = small.training_loop(training=(X, Y), validation=(X, Y))
    other = jl.TrainingLoop(
        nested,
        nested,
        optimizer=optax.sgd(0.1),
        loss_fn=lambda output, target: jl.losses.softmax_cross_entropy(output, target["digit"]),
        batch_keys=("image", "label"),
        progress=False,
    )
    model = small.model()
    of_pixels = jl.Model(_apply_to_pixels, model.params, model.state)
    losses = [each.fit(given, 1)[1].epochs for each, given in ((one, model), (other, of_pixels))]
    for name in ("loss", "validation_loss"):
        np.testing.assert_array_equal(losses[0][name], losses[1][name])
    assert other.evaluate(of_pixels, nested)["loss"] == one.evaluate(model, (X, Y))["loss"]


def _apply_to_pixels(params: Any, state: Any, input: Any, **options: Any) -> Any:
    return small.apply(params, state, input["pixels"], **options)


def test_a_mapping_that_holds_no_samples_is_refused() -> None:
    sets = {"a": (X, Y), "b": (X, Y)}
    with pytest.raises(TypeError, match=r"got a mapping of 'a', 'b'\. Of several sets give one at a time"):
        small.training_loop(validation=sets).evaluate(small.model(), sets)
    with pytest.raises(TypeError, match=r"training: expected arrays, as .*, or epochs of batches, got "):
        small.training_loop(training=sets)
    with pytest.raises(TypeError, match="expected batches, got a mapping of 'b'"):
        small.training_loop(validation={"a": {"b": (X, Y)}}).fit(small.model(), 1)


def test_a_size_without_arrays_is_refused() -> None:
    training_loop = small.training_loop()
    message = "batch_size: it is for data that are arrays"
    with pytest.raises(ValueError, match=message):
        small.training_loop(batch_size=8)
    with pytest.raises(ValueError, match=message):
        training_loop.evaluate(small.model(), jl.in_batches((X, Y), 4), batch_size=8)
    with pytest.raises(ValueError, match=message):
        training_loop.predict(small.model(), jl.in_batches((X, Y), 4), batch_size=8)


def test_arrays_of_unequal_length_are_refused() -> None:
    with pytest.raises(ValueError, match="must share one leading axis"):
        small.training_loop(training=(X, Y[:-1]))
    with pytest.raises(ValueError, match="must share one leading axis"):
        small.training_loop().evaluate(small.model(), (X, Y[:-1]))
    with pytest.raises(ValueError, match="Make lists into arrays"):
        small.training_loop(training=(X, Y.tolist()))
