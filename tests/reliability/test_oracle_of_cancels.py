"""A run in which something is cancelled is resumed from any save as if it had never been interrupted."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.reliability.cases import Cancel, Case, small
from tests.reliability.oracle import Consulted, assert_none

Consult = Callable[[Path, dict[str, Case]], Consulted]
SCOPES = ("BATCH", "TRAINING", "VALIDATION", "EPOCH", "FIT")


@pytest.mark.exhaustive
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("who", ["compiled", "observer"])
def test_with_whatever_is_cancelled_before_the_save_or_after_it(
    consult: Consult, tmp_path: Path, who: Any, steps: int
) -> None:
    cases = {}
    events = {"compiled": {1: ("UPDATE_START",), 3: ("BATCH_START", "BATCH_END")}}.get(who, {})
    for scope in SCOPES:
        for event in events.get(steps, ("BATCH_END",)):
            cancel = Cancel(who, scope, event, "training", epoch=1, batch=3 if who == "compiled" else 1)
            cases[f"{scope} at {event}"] = _cancelled(cancel, steps)
        if scope not in ("BATCH", "TRAINING"):
            cancel = Cancel(who, scope, "BATCH_END", "validation", epoch=1, batch=1)
            cases[f"{scope} in validation"] = _cancelled(cancel, steps)
    assert_none(consult(tmp_path, cases))


def _cancelled(cancel: Cancel, steps: int) -> Case:
    return small(cancels=(cancel,), steps=steps, batches=5, validation=4)


@pytest.mark.exhaustive
def test_with_what_is_cancelled_between_steps_or_with_stages_apart(consult: Consult, tmp_path: Path) -> None:
    cases = {}
    for who in ("compiled", "event"):
        for event in ("EPOCH_START", "TRAINING_START", "TRAINING_END", "VALIDATION_START", "EPOCH_END"):
            scope = "EPOCH" if event != "TRAINING_START" else "VALIDATION"
            cases[f"{who} at {event}"] = small(cancels=(Cancel(who, scope, event, epoch=1),))  # type: ignore[arg-type]
    for who in ("compiled", "observer"):
        for scope in SCOPES:
            cancel = Cancel(who, scope, epoch=1, batch=1)  # type: ignore[arg-type]
            cases[f"{who} {scope} apart"] = small(cancels=(cancel,), apart=True)
    assert_none(consult(tmp_path, cases))
