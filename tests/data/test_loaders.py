"""Other libraries' loaders and data sets train as they are, each if it is installed."""

import itertools
from typing import Any

import numpy as np
import pytest

import jaxloop as jl
from tests import small

IMAGES, LABELS = small.samples(12)
PAIRS = list(zip(IMAGES, LABELS, strict=True))


def imported(name: str) -> Any:
    """A module, or a skipped test where it did not install."""
    return pytest.importorskip(name, reason=f"{name} did not install", exc_type=ImportError)


def trained(training: Any, **changes: Any) -> np.ndarray:
    """The parameters after one epoch of three batches of four, in the order of the samples."""
    loop, history = small.training_loop(training=training, **changes).fit(small.model(), epochs=1)
    assert history.batches["loss"].shape == (3,)
    return np.asarray(loop.model.params["kernel"])


@pytest.fixture(scope="module")
def expected() -> np.ndarray:
    return trained([jl.in_batches((IMAGES, LABELS), 4)])


def named() -> dict[str, Any]:
    """Validation that is named as a data set's columns are."""
    images, labels = small.samples(8, seed=1)
    validation = jl.in_batches({"image": images, "label": labels}, 4)
    return {"validation": validation, "batch_keys": ("image", "label")}


def test_a_generator(expected: np.ndarray) -> None:
    batches = ((IMAGES[start : start + 4], LABELS[start : start + 4]) for start in range(0, 12, 4))
    np.testing.assert_array_equal(trained(jl.repeat(batches, batch_count=3)), expected)


class Unsized:
    """Three batches of validation, over and over, without a length."""

    def __iter__(self) -> Any:
        return itertools.cycle(jl.in_batches(small.samples(12, seed=1), 4))


class Raising(Unsized):
    """The same; its length is not known, as that of torch's loader over a stream."""

    def __len__(self) -> int:
        raise TypeError("object of type 'IterableDataset' has no len()")


@pytest.mark.parametrize("kind", [Unsized, Raising])
def test_validation_without_a_length_is_that_of_so_many_batches(kind: Any) -> None:
    plain = small.training_loop(validation=jl.in_batches(small.samples(12, seed=1), 4))
    loop, expected = plain.fit(small.model(), 2)
    validation = jl.repeat(kind(), batch_count=3)
    training_loop = small.training_loop(validation=validation)
    _, history = training_loop.fit(small.model(), 2)
    np.testing.assert_array_equal(history.epochs["validation_loss"], expected.epochs["validation_loss"])
    assert training_loop.evaluate(loop, validation) == plain.evaluate(loop, plain.validation)
    np.testing.assert_array_equal(training_loop.predict(loop, validation), plain.predict(loop, plain.validation))
    stepped = training_loop.eval_step(training_loop.start(small.model(), epochs=1), next(iter(kind())))
    assert int(stepped.batch_count) == 3


@pytest.mark.parametrize("kind", [Unsized, Raising])
def test_data_without_a_length_is_refused_with_the_line_to_write(kind: Any) -> None:
    with pytest.raises(TypeError, match=r"validation: .* has no length.*repeat\(batches, batch_count=20\)"):
        small.training_loop(validation=kind()).fit(small.model(), 1)
    with pytest.raises(TypeError, match=r"batches: .* has no length.*repeat\(batches, batch_count=20\)"):
        small.training_loop().evaluate(small.model(), kind())
    with pytest.raises(TypeError, match=r"training: an epoch must be a sized iterable.*repeat\(batches, batch_count"):
        small.training_loop(training=[kind()]).fit(small.model(), 1)


def test_a_source_of_samples(expected: np.ndarray) -> None:
    np.testing.assert_array_equal(trained([jl.in_batches(PAIRS, 4)]), expected)


def test_shuffled_epochs_of_a_source_are_those_of_arrays() -> None:
    arrays = trained(jl.TrainingEpochs((IMAGES, LABELS), 4))
    np.testing.assert_array_equal(trained(jl.TrainingEpochs(PAIRS, 4)), arrays)


def test_torch(expected: np.ndarray) -> None:
    torch = imported("torch")
    data = torch.utils.data.TensorDataset(torch.tensor(IMAGES), torch.tensor(LABELS))
    loader = torch.utils.data.DataLoader(data, batch_size=4)
    np.testing.assert_array_equal(trained(jl.repeat(loader)), expected)
    np.testing.assert_array_equal(trained([jl.in_batches(data, 4)]), expected)


def test_tensorflow(expected: np.ndarray) -> None:
    data = imported("tensorflow").data.Dataset.from_tensor_slices((IMAGES, LABELS)).batch(4)
    np.testing.assert_array_equal(trained(jl.repeat(data)), expected)
    np.testing.assert_array_equal(trained(jl.repeat(data.repeat(), batch_count=3)), expected)


def test_a_grain_data_set(expected: np.ndarray) -> None:
    data = imported("grain").MapDataset.source(PAIRS).batch(4)
    np.testing.assert_array_equal(trained(jl.repeat(data)), expected)
    np.testing.assert_array_equal(trained(jl.repeat(data.repeat(), batch_count=3)), expected)


def test_a_grain_data_set_as_a_source(expected: np.ndarray) -> None:
    data = imported("grain").MapDataset.source(PAIRS)
    np.testing.assert_array_equal(trained([jl.in_batches(data, 4)]), expected)


def test_a_grain_loader(expected: np.ndarray) -> None:
    grain = imported("grain")
    loader = grain.DataLoader(
        data_source=PAIRS,
        sampler=grain.samplers.SequentialSampler(num_records=12),
        operations=[grain.transforms.Batch(4)],
    )
    np.testing.assert_array_equal(trained(jl.repeat(loader, batch_count=3)), expected)


@pytest.fixture
def table() -> Any:
    columns = {"image": IMAGES, "label": LABELS}
    return imported("datasets").Dataset.from_dict(columns).with_format("numpy")


def test_a_hugging_face_data_set_in_batches(table: Any, expected: np.ndarray) -> None:
    np.testing.assert_array_equal(trained(jl.repeat(table.batch(4)), **named()), expected)
    endless = itertools.chain.from_iterable(table.iter(batch_size=4) for _ in itertools.count())
    np.testing.assert_array_equal(trained(jl.repeat(endless, batch_count=3), **named()), expected)


def test_a_hugging_face_data_set_as_a_source(table: Any, expected: np.ndarray) -> None:
    np.testing.assert_array_equal(trained([jl.in_batches(table, 4)], **named()), expected)
