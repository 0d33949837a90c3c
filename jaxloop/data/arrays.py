"""Arrays where epochs or batches are meant: they are the samples, and batches are made of them."""

from collections.abc import Iterable, Mapping
from typing import Any

from jaxloop.data.batches import in_batches
from jaxloop.data.epochs import TrainingEpochs
from jaxloop.data.samples import checked
from jaxloop.whole_number import whole_number

#: Examples in a batch of arrays, if nothing else was said.
TRAINING_BATCH_SIZE, EVALUATION_BATCH_SIZE = 32, 256


def are_samples(data: Any, keys: Any = None) -> bool:
    """Whether data are arrays with an axis of examples: a tuple or a mapping in which an array stands itself.

    A tuple of tuples of arrays holds batches, and so does a list of arrays. A tuple of mappings of arrays is one of
    input and target, since batches that are mappings come with keys. A mapping that has these keys is one of input and
    target too, which may be trees.
    """
    if isinstance(data, Mapping):
        return _holds_arrays(data.values()) or (bool(keys) and all(key in data for key in keys))
    if not isinstance(data, tuple):
        return False
    return _holds_arrays(data) or (not keys and len(data) in (2, 3) and all(map(_is_mapping_of_arrays, data)))


def as_epochs(training: Any, batch_size: int | None, keys: Any = None) -> Any:
    """`training`; of arrays their epochs, shuffled, in batches of `batch_size`, or of 32 if that is None.

    Raises:
      ValueError: `batch_size` was given for what has batches; or arrays are no samples, see `TrainingEpochs`.
    """
    if not are_samples(training, keys):
        return training
    if batch_size is None:
        training, count = checked("training", training, 1)
        return TrainingEpochs(training, min(TRAINING_BATCH_SIZE, count))
    return TrainingEpochs(training, whole_number("batch_size: it", batch_size))


def as_batches(data: Any, batch_size: int | None, keys: Any = None) -> Any:
    """`data`; of arrays batches in their order, of `batch_size`, or of 256 if that is None.

    Raises:
      ValueError: arrays are no samples, see `in_batches`.
    """
    if not are_samples(data, keys):
        return data
    return in_batches(data, _size_or_default(batch_size))


def sets_of(validation: Any, keys: Any = None) -> list[Any]:
    """The data of each set of validation: of a mapping that is not itself samples, its values."""
    if isinstance(validation, Mapping) and not are_samples(validation, keys):
        return list(validation.values())
    return [validation]


def as_validation(validation: Any, batch_size: int | None, keys: Any = None) -> Any:
    """`validation` with batches in place of arrays: a dict by name if it has several sets.

    Raises:
      As `as_batches`.
    """
    if isinstance(validation, Mapping) and not are_samples(validation, keys):
        return {name: as_batches(data, batch_size, keys) for name, data in validation.items()}
    return as_batches(validation, batch_size, keys)


def as_inputs(data: Any, batch_size: int | None) -> Any:
    """`data` to predict from; of the inputs of all examples, an array or a mapping of arrays, batches in their order.

    Raises:
      ValueError: as `as_batches`; or `batch_size` was given for what has batches.
    """
    if hasattr(data, "shape") or isinstance(data, Mapping):
        return in_batches(data, _size_or_default(batch_size))
    if not isinstance(data, tuple):  # that is refused for what it is
        check_unused(batch_size, data)
    return data


def check_unused(batch_size: int | None, *data: Any, keys: Any = None) -> None:
    """Refuses a batch size where no data are arrays, since it would have no effect.

    Raises:
      ValueError: it has no effect.
    """
    if batch_size is not None and not any(are_samples(each, keys) for each in data):
        raise ValueError(
            f"batch_size: it is for data that are arrays, such as (inputs, targets); got {batch_size!r} for data that "
            "have batches already. Leave it out, or give the arrays."
        )


def _holds_arrays(parts: Iterable[Any]) -> bool:
    return any(hasattr(part, "shape") for part in parts)


def _is_mapping_of_arrays(part: Any) -> bool:
    return isinstance(part, Mapping) and _holds_arrays(part.values())


def _size_or_default(batch_size: int | None) -> int:
    """The size of an evaluation's batches.

    Raises:
      ValueError: it is not a whole number of at least 1.
    """
    return EVALUATION_BATCH_SIZE if batch_size is None else whole_number("batch_size: it", batch_size)
