"""What makes a run the same run."""

import json
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import jaxloop as jl
from tests import small


def identity(*, seed: int = 0, epochs: int = 2, **changes: Any) -> dict[str, Any]:
    checkpoint = jl.callbacks.Checkpoint("unused")  # without one, nobody asks what makes the run
    setup = small.training_loop(**{"callbacks": [checkpoint], **changes}).setup
    return setup.fit(small.model(), epochs, seed=seed).identity()


def test_it_is_json_and_the_same_for_the_same_run():
    assert identity() == identity() == json.loads(json.dumps(identity()))


def test_numbers_of_numpy_are_as_good_as_pythons():
    def of(number: Any) -> dict[str, Any]:
        epochs = jl.TrainingEpochs(small.samples(12), number(4), seed=number(1))
        batches = jl.in_batches(small.samples(6), number(4))
        options = {
            "steps_per_dispatch": number(2),
            "accumulate": number(2),
            "callbacks": [jl.callbacks.Checkpoint("no")],
        }
        setup = small.training_loop(training=epochs, validation=batches, **options).setup
        session = setup.fit(small.model(), None, steps=number(5), limit=number(2), seed=number(3))
        assert type(session.plan.epoch_count) is type(session.plan.total_steps) is int
        return session.identity()

    assert of(np.int64) == of(np.int32) == of(int)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("seed", {"seed": 1}),
        ("epochs", {"epochs": 3}),
        ("report", {"report": "epoch"}),
        ("metrics", {"metrics": []}),
        ("steps_per_dispatch", {"steps_per_dispatch": 2}),
        ("accumulate", {"accumulate": 2}),
        ("compute_dtype", {"compute_dtype": jnp.bfloat16}),
        ("training", {"training": jl.TrainingEpochs(small.samples(12), 4, seed=5)}),
        ("validation", {"validation": None}),
    ],
)
def test_it_differs_by_the_name_of_what_differs(name: str, changes: Any):
    before, after = identity(), identity(**changes)
    assert name in [key for key in before if before[key] != after[key]]


def test_sets_of_validation_in_another_order_are_another_run():
    first, second = ((name, small.samples(4)) for name in ("first", "second"))
    before, after = (identity(validation=dict(sets)) for sets in ((first, second), (second, first)))
    assert [name for name in before if before[name] != after[name]] == ["validation_sets"]
    assert identity()["validation_sets"] is None  # as in checkpoints from before there were names


class Loader:
    """Can only be read in turn."""

    def __len__(self) -> int:
        return 2

    def __iter__(self) -> Any:
        return iter([small.samples(4), small.samples(4)])


def test_a_loader_is_told_by_its_first_batch():
    assert "first_batch" in identity(training=jl.repeat(Loader()))["training"]
    assert "first_batch" not in identity()["training"]
