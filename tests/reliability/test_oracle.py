"""A run that is resumed from any save equals the one that was never interrupted, bit for bit."""

import dataclasses
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.reliability.cases import Case, small
from tests.reliability.oracle import Consulted, assert_none
from tests.reliability.training import CALLBACKS

Consult = Callable[[Path, dict[str, Case]], Consulted]

IMAGES = ("images",) if importlib.util.find_spec("PIL") else ()
ALL = ("non_finite", *CALLBACKS, "counts", "other_csv", *IMAGES)
LOGS = ("csv", "tensorboard")


def positions(consulted: Consulted, name: str) -> list[str]:
    """The places of a case, without what was in flight."""
    return [place.split(", ", 1)[1].rsplit(", ", 2)[0] for place in consulted.places[name] if "batch" in place]


@pytest.mark.exhaustive
def test_with_everything_and_three_steps_a_dispatch_each_save_is_as_good_as_no_kill(
    consult: Consult, tmp_path: Path
) -> None:
    consulted = consult(tmp_path, {"everything": Case(steps=3, callbacks=(*ALL, "bound"))})
    assert_none(consulted)
    in_epoch = [f"training batch {at} of 7" for at in (0, 3, 6, 7)] + [f"validation batch {at} of 3" for at in range(4)]
    assert positions(consulted, "everything") == 3 * in_epoch  # images cut the steps of validation
    assert len(consulted.places["everything"]) == 3 * len(in_epoch) + 3 + 1


@pytest.mark.exhaustive
@pytest.mark.parametrize("steps", [1, "auto", "apart"])
def test_with_everything_and_other_dispatches(consult: Consult, tmp_path: Path, steps: Any) -> None:
    apart = steps == "apart"
    callbacks = tuple(name for name in ALL if name != "images" or apart)
    consulted = consult(tmp_path, {"everything": Case(steps=1 if apart else steps, apart=apart, callbacks=callbacks)})
    assert_none(consulted)
    ends = (0, 7) if steps == "auto" else range(8)
    assert positions(consulted, "everything")[: len(ends)] == [f"training batch {at} of 7" for at in ends]


@pytest.mark.exhaustive
def test_each_callback_alone(consult: Consult, tmp_path: Path) -> None:
    names = (*ALL, "skips_non_finite", "stops_early", "bound", "changes")
    cases = {name: small(callbacks=(name,), epochs=3) for name in names}
    cases["profiler"] = small(callbacks=("profiler",), epochs=1)
    cases["late"] = small(callbacks=("late",), epochs=1)
    cases["late, apart"] = small(callbacks=("late",), apart=True)
    assert_none(consult(tmp_path, cases))


@pytest.mark.slow
def test_from_each_kind_of_data(consult: Consult, tmp_path: Path) -> None:
    kinds = ["list", "generator", "repeat", "stream", "mapped", "compiled", "resident", "resident compiled"]
    kinds += ["grain", "grain iter"] if importlib.util.find_spec("grain") else []
    cases = {kind: small(data=kind, steps=1 + 2 * (number % 2), batches=5) for number, kind in enumerate(kinds)}
    if "grain" in cases:  # each of its iterators reads 500 batches ahead
        cases["grain"] = small(data="grain", batches=2, validation=1)
    cases |= {f"{kind}, otherwise": small(data=kind, steps=k) for kind, k in (("list", 3), ("resident", 1))}
    cases |= {f"steps, {k}": small(data="steps", model="residual", steps=k) for k in (1, 3, "auto")}
    cases["list, apart"] = small(data="list", apart=True)
    assert_none(consult(tmp_path, cases))


@pytest.mark.slow
def test_over_a_budget_of_steps_cut_epochs_and_several_sets(consult: Consult, tmp_path: Path) -> None:
    logged = ("schedule", "counts", "ema", "bar", *LOGS)
    cases: dict[str, Case] = {}
    for steps in (1, "auto"):
        cases[f"budget, {steps}"] = small(budget=6, steps=steps, callbacks=(*logged, "bound"))
        cases[f"every, {steps}"] = small(data="every", epochs=5, batches=5, steps=steps, callbacks=("schedule", "csv"))
        cases[f"sets, {steps}"] = small(sets=True, at_start=True, steps=steps, callbacks=logged)
    cases["every, resident"] = small(data="every", budget=8, batches=5, steps=3, callbacks=("schedule", "csv"))
    cases["stream every"] = small(data="stream every", budget=7, batches=5, callbacks=("schedule", "csv"))
    cases["sets, apart"] = small(sets=True, at_start=True, apart=True)
    cases["at start, on a loop"] = small(at_start=True, before=1, callbacks=LOGS)
    assert_none(consult(tmp_path, cases))


@pytest.mark.slow
def test_from_a_loader_of_torch(consult: Consult, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    assert_none(consult(tmp_path, {f"{k}": small(data="torch", steps=k) for k in (1, 3)}))


@pytest.mark.exhaustive
def test_with_each_kind_of_model_and_optimizer(consult: Consult, tmp_path: Path) -> None:
    models = ["bfloat16", "rbg", "linen"] + (["equinox"] if importlib.util.find_spec("equinox") else [])
    cases = {name: small(model=name, steps=3, callbacks=("ema", "csv")) for name in models}
    for name in ("multi_steps", "schedule_free", "scheduled"):
        cases[name] = small(optimizer=name, callbacks=("ema", "early_stopping", "csv"))
    cases["x64"] = small(model="double", x64=True, steps=3, callbacks=("ema", "counts", "csv"))
    assert_none(consult(tmp_path, cases))


@pytest.mark.slow
def test_with_reports_by_epoch_limits_a_fit_before_and_rows_that_wait(consult: Consult, tmp_path: Path) -> None:
    by_epoch = small(callbacks=(*LOGS, "other_csv", "counts"), batches=5, report="epoch")
    cases: dict[str, Case] = {}
    for steps in (1, 3, "auto"):
        cases[f"by epoch, {steps}"] = dataclasses.replace(by_epoch, steps=steps)
    cases["by epoch, apart"] = dataclasses.replace(by_epoch, apart=True)
    lasting = ("counts", "ema", "schedule", "early_stopping", "csv", "tensorboard")
    for steps in (1, 3):
        cases[f"on a loop, {steps}"] = small(before=2, callbacks=lasting, steps=steps)
    cases["limited"] = small(limit=3, steps=2)
    cases["without validation"] = small(validation=0, callbacks=("counts", *LOGS))
    cases["patient"] = small(patient=True, callbacks=LOGS, batches=40, epochs=1)
    cases["stops early, 3"] = small(steps=3, epochs=4, callbacks=("ema", "stops_early", *LOGS))
    consulted = consult(tmp_path, cases)
    assert_none(consulted)
    assert any("31 rows in flight" in place for place in consulted.places["patient"])
