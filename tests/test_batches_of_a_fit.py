"""What a fit takes as its batches and its epochs, and what it refuses."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import jaxloop as jl
from jaxloop import Event
from tests import small


def test_limited_batches_are_the_first_of_each_phase() -> None:
    loop, _ = small.training_loop(callbacks=[small.traced()]).fit(small.model(), 2, limit_batches=1)
    assert int(loop.step) == 2
    assert small.trace_of(loop).count(Event.INFERENCE_PREDICTION_END) == 2


def test_batches_may_be_mappings_named_by_batch_keys() -> None:
    input, target = small.samples(12)
    mapped = [[{"x": input[index : index + 4], "y": target[index : index + 4]} for index in (0, 4, 8)]]
    plain = [[(batch["x"], batch["y"]) for batch in mapped[0]]]
    one, _ = small.training_loop(training=mapped, batch_keys=("x", "y"), validation=None).fit(small.model(), 1)
    other, _ = small.training_loop(training=plain, validation=None).fit(small.model(), 1)
    small.assert_trees_equal(one.model, other.model)


def test_a_loader_that_writes_each_batch_into_the_same_memory_is_safe() -> None:
    input, target = small.samples(40)

    class Reusing:
        def __len__(self) -> int:
            return 10

        def __iter__(self) -> Iterator[Any]:
            memory = np.empty((4, 4), np.float32), np.empty(4, np.int32)
            for start in range(0, 40, 4):
                memory[0][:], memory[1][:] = input[start : start + 4], target[start : start + 4]
                yield memory

    fresh = [(input[start : start + 4], target[start : start + 4]) for start in range(0, 40, 4)]
    one, _ = small.training_loop(training=[Reusing()], validation=None).fit(small.model(), 1)
    other, _ = small.training_loop(training=[fresh], validation=None).fit(small.model(), 1)
    small.assert_trees_equal(one.model, other.model)


def test_epochs_may_come_from_a_generator() -> None:
    epochs = jl.TrainingEpochs(small.samples(12), 4)
    generated, _ = small.training_loop(training=(epochs[index] for index in range(2))).fit(small.model(), 2)
    indexed, _ = small.training_loop(training=epochs).fit(small.model(), 2)
    small.assert_trees_equal(generated.model, indexed.model)


def test_a_batch_of_another_shape_names_the_leaf_what_was_and_what_came() -> None:
    input, target = small.samples(12)
    odd = [[(input[:4], target[:4]), (input[:4, :3], target[:4])]]
    with pytest.raises(ValueError, match=r"training: .*input was float32\[4, 4\] there, now it is float32\[4, 3\]"):
        small.training_loop(training=odd, validation=None).fit(small.model(), 1)


def test_too_few_epochs_are_told() -> None:
    epochs = jl.TrainingEpochs(small.samples(12), 4)[:2]
    with pytest.raises(ValueError, match="training: it has no epoch 3"):
        small.training_loop(training=epochs).fit(small.model(), 3)
