"""What makes data the same data."""

import json
from typing import Any

import numpy as np
import pytest

from jaxloop.data import NonuniformTrainingEpochs, TrainingEpochs, in_batches, repeat, steps
from jaxloop.feeding.identity import differences, first_batch_mark, identity_of

SAMPLES = np.zeros((64, 2)), np.zeros(64)
BATCH = np.zeros((4, 2)), np.zeros(4)


def imported(name: str) -> Any:
    """A module, or a skipped test where it did not install."""
    return pytest.importorskip(name, reason=f"{name} did not install", exc_type=ImportError)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (None, {"kind": "none"}),
        (TrainingEpochs(SAMPLES, 32, 3), {"kind": "TrainingEpochs", "samples": 64, "batch_size": 32, "seed": 3}),
        (
            TrainingEpochs(SAMPLES, 32).map(lambda batch: batch),
            {"kind": "TrainingEpochs", "samples": 64, "batch_size": 32, "seed": 0},
        ),
        (
            NonuniformTrainingEpochs([[1], [2, 3]], 2, batches_per_sort=4, lengths=(2, 4)),
            {"kind": "NonuniformTrainingEpochs", "samples": 2, "batch_size": 2, "seed": 0}
            | {"batches_per_sort": 4, "lengths": [2, 4]},
        ),
        (in_batches(SAMPLES, 5), {"kind": "Batches", "samples": 64, "batch_size": 5, "batches": 13}),
        (
            repeat([BATCH] * 3, batch_count=2),
            {"kind": "repeat", "batch_count": 2, "of": {"kind": "list", "batches": 3, "batch_size": 4}},
        ),
        (steps(100), {"kind": "steps", "batches": 100}),
        (
            [in_batches(SAMPLES, 32), in_batches(SAMPLES, 64)],
            {"kind": "list of epochs", "epochs": 2, "batches": [2, 1]}
            | {"first": {"kind": "Batches", "samples": 64, "batch_size": 32, "batches": 2}},
        ),
        ([], {"kind": "list", "batches": 0}),
        ((BATCH for _ in range(2)), {"kind": "builtins.generator"}),
    ],
)
def test_data_are_told_by_what_decides_their_batches(data: Any, expected: dict[str, Any]) -> None:
    assert identity_of(data) == json.loads(json.dumps(identity_of(data))) == expected


def test_a_loader_of_torch_is_told_by_its_batch_size_and_seed() -> None:
    torch = imported("torch")
    data = torch.utils.data.TensorDataset(torch.zeros(10, 2))
    loader = torch.utils.data.DataLoader(data, 4, shuffle=True, generator=torch.Generator().manual_seed(7))
    expected = {"kind": "torch.DataLoader", "batches": 3, "samples": 10, "batch_size": 4, "drop_last": False, "seed": 7}
    assert identity_of(repeat(loader)) == {"kind": "repeat", "batch_count": 3, "of": expected}


def test_data_of_grain_are_told_by_their_batch_size_and_seed() -> None:
    grain = imported("grain")
    rows = list(range(64))
    loader = grain.DataLoader(
        data_source=rows,
        sampler=grain.samplers.IndexSampler(64, shuffle=True, seed=4, num_epochs=1),
        operations=[grain.transforms.Batch(2)],
    )
    of_loader = {"kind": "grain.DataLoader", "samples": 64, "batch_size": 2, "seed": 4, "shuffle": True}
    assert identity_of(repeat(loader, batch_count=3))["of"] == of_loader
    data = grain.MapDataset.source(rows)
    found = [identity_of(data.shuffle(seed=seed).batch(4)) for seed in (9, 9, 8)]
    assert found[0] == found[1]
    assert [(one["kind"], one["batches"], one["batch_size"]) for one in found] == [("grain.BatchMapDataset", 16, 4)] * 3
    assert len(differences(found[0], found[2])) == 1


def test_what_differs_is_told_in_words() -> None:
    saved, now = identity_of(TrainingEpochs(SAMPLES, 32)), identity_of(TrainingEpochs(SAMPLES, 64, seed=3))
    assert differences(saved, now) == [
        "batch_size: the checkpoint's run had 32, this one has 64",
        "seed: the checkpoint's run had 0, this one has 3",
    ]
    assert differences(saved, saved) == []


def test_of_data_of_another_kind_only_the_kind_is_told() -> None:
    saved, now = identity_of(TrainingEpochs(SAMPLES, 32)), identity_of(repeat([BATCH] * 3))
    assert differences(saved, now) == ["kind: the checkpoint's run had TrainingEpochs, this one has repeat"]


def test_what_only_one_has_is_told_too() -> None:
    saved, now = ({"kind": "repeat", "of": {"kind": "list", "batches": 3} | seed} for seed in ({"seed": 1}, {}))
    assert differences(saved, now) == ["seed: the checkpoint's run had 1, this one has none"]


def test_a_first_batch_has_a_mark() -> None:
    assert first_batch_mark(BATCH) == first_batch_mark(tuple(part.copy() for part in BATCH))


def test_another_first_batch_is_told_with_its_fix_only_if_nothing_else_says_why() -> None:
    saved = {"kind": "Loader", "batches": 7, "first_batch": 1}
    (line,) = differences(saved, saved | {"first_batch": 2})
    assert "the first batch is another one" in line
    assert "Seed the loader" in line
    assert differences(saved, saved | {"first_batch": 2, "batches": 8}) == [
        "batches: the checkpoint's run had 7, this one has 8"
    ]
