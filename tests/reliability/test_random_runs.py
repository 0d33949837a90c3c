"""Runs drawn by chance, cancelled here and there, are resumed from every save like those that were thought of."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.reliability.cases import Cancel, Case
from tests.reliability.oracle import Consulted

CALLBACKS = ("clip", "schedule", "ema", "early_stopping", "stops_early", "plateau", "counts", "bound", "csv")
OBSERVERS = ("other_csv", "tensorboard", "bar", "changes", "skips_non_finite")
DATA = ("epochs", "list", "generator", "repeat", "stream", "mapped", "compiled", "resident")
SCOPES = ("BATCH", "TRAINING", "VALIDATION", "EPOCH")
EVENTS = ("EPOCH_START", "TRAINING_START", "TRAINING_END", "VALIDATION_START", "VALIDATION_END", "EPOCH_END")


def drawn(seed: int) -> Case:
    """A case by chance."""
    chance = random.Random(seed)
    epochs, batches, validation = chance.randint(1, 3), chance.randint(1, 7), chance.randint(0, 3)
    names = {name for name in (*CALLBACKS, *OBSERVERS) if chance.random() < 0.35}
    if not validation:
        names -= {"early_stopping", "stops_early", "plateau"}
    if "early_stopping" in names:
        names -= {"stops_early"}
    steps: Any = chance.choice([1, 2, 3, 4, "auto"])
    return Case(
        steps=steps,
        apart=steps == 1 and chance.random() < 0.4,
        callbacks=tuple(name for name in (*CALLBACKS, *OBSERVERS) if name in names),
        data=chance.choice(DATA),
        model="plain",
        epochs=epochs,
        batches=batches,
        validation=validation,
        report=chance.choice(["batch", "batch", "epoch"]),  # type: ignore[arg-type]
        limit=chance.choice([None, None, None, 2, 5]),
        cancels=tuple(_cancel(chance, epochs, batches, validation) for _ in range(chance.choice([0, 1, 1, 2, 3]))),
        before=0 if chance.random() < 0.7 else 1,
        patient=chance.random() < 0.5,
    )


def _cancel(chance: random.Random, epochs: int, batches: int, validation: int) -> Cancel:
    who: Any = chance.choice(["compiled", "compiled", "observer", "observer", "event"])
    phase = chance.choice(["training", "training", "validation"] if validation else ["training"])
    in_step = ["BATCH_START", "BATCH_END"] + (["UPDATE_START"] if phase == "training" else [])
    event = chance.choice(list(EVENTS) if who == "event" else in_step)
    scope = "FIT" if chance.random() < 0.15 else chance.choice(SCOPES)
    batch = chance.randrange(batches if phase == "training" else validation)
    return Cancel(who, scope, event, phase, epoch=chance.randint(1, epochs), batch=batch)


@pytest.mark.exhaustive
@pytest.mark.parametrize("first", [0, 12])
def test_runs_drawn_by_chance(
    consult: Callable[[Path, dict[str, Case]], Consulted], tmp_path: Path, first: int
) -> None:
    cases = {f"{seed}": drawn(seed) for seed in range(first, first + 12)}
    consulted = consult(tmp_path, cases)
    shown = [f"{fault}\n    {cases[fault.split(',')[0]]}" for fault in consulted.faults[:20]]
    assert not shown, "\n  ".join(shown)
