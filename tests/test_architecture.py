"""Who may import whom: only downwards, and never sideways."""

import ast
from pathlib import Path

import pytest

import jaxloop

PACKAGE = Path(jaxloop.__file__).parent
FLOORS = [
    {"brief", "broadcasting", "frames", "in_place", "missing", "noting", "outputs", "precision", "shown"}
    | {"path_argument", "real_number", "shown_figure", "signatures", "whole_number"},
    {"adapters", "chips", "compile_cache", "data", "durable", "errors", "events", "file_lock", "hyperparameters"}
    | {"kinds", "long_work", "losses", "masks", "measured", "optimizer", "output_losses", "pickling", "schedules"}
    | {"plainly", "telling", "tracers"},
    {"memory_limits", "model", "metrics", "placement", "plots"},
    {"casting", "loop", "partitioning", "topology"},
    {"births", "blame", "callback", "carried", "shardings", "views"},
    {"asking", "lying", "speed", "step_spec"},
    {"forward"},
    {"gradient"},
    {"microbatches"},
    {"extra_args"},
    {"checkpoint", "console", "feeding", "files", "history", "phases", "step", "wire"},
    {"callbacks", "ownership", "programs", "recorder"},
    {"engine"},
    {"by_hand"},
    {"training_loop"},
    {"benchmarking", "explain", "largest_batch", "learning_rate_finder", "restoring", "testing"} | {"weights"},
    {"benchmark"},
]
#: Inside a room of several files, the order in which they may import each other; others not at all.
ROOMS = {
    "adapters": [{"by_value", "selection"}, {"modes"}, {"nnx", "linen", "pytree"}],
    "benchmarking": [{"costs"}, {"measurement"}, {"timing"}],
    "callbacks": [
        {"checkpoint", "clipping", "csv_logger", "ema", "image_saver", "non_finite", "outbox"}
        | {"patience", "profiler", "progress_bar", "scheduling", "tensorboard_logger", "time_limit", "watchdog"},
        {"tracking"},
        {"mlflow_logger", "wandb_logger"},
    ],
    "checkpoint": [
        {"arrays", "disk", "fingerprint", "leaves", "lock", "plain", "retention"},
        {"journal", "manifest"},
        {"naming"},
        {"commit", "store"},
        {"writer"},
        {"__main__"},
    ],
    "console": [{"above", "diverged", "lines", "outlet", "times"}, {"screen"}, {"guarded"}],
    "data": [
        {"loaders", "masked"},
        {"collate", "samples"},
        {"batches"},
        {"derived", "repeat"},
        {"epochs", "steps"},
        {"arrays", "nonuniform"},
    ],
    "engine": [
        {"advice", "agreement", "arguments", "closing", "delivery", "ending", "going_on", "hosted", "interrupts"}
        | {"latest"}
        | {"ledger", "place"},
        {"boundary", "host", "leaving", "sameness", "session"},
        {"binding", "identity", "opening", "saver"},
        {"phase_steps", "prediction", "rehearsal", "resuming", "saving"},
        {"dispatch", "stepwise"},
        {"run"},
        {"supply"},
        {"compiled", "evaluation", "fitting", "setup"},
        {"abstract", "step_by_step"},
        {"ahead"},
    ],
    "placement": [{"divisions", "moving"}, {"placement"}, {"naming", "parallel"}],
    "feeding": [
        {"checksums", "prefetch", "searching", "specification", "states"},
        {"identity", "marks"},
        {"peekable"},
        {"source"},
        {"checks", "packing", "prepare", "reading"},
        {"contract", "inspection", "slots"},
        {"dividing", "grouping"},
        {"gathering"},
        {"feed"},
    ],
    "files": [{"decimals", "png", "waiting", "wandb_file"}, {"event_file", "line_file", "summaries"}, {"event_folder"}],
    "metrics": [
        {"labels", "means"},
        {"classification", "confusion", "f_scores", "foreign", "ranking", "regression"},
        {"metric"},
    ],
    "programs": [
        {"adjusting", "canonical", "collectives", "cost", "ends", "flops", "fusing", "memo", "printing", "zeros"},
        {"step_trace"},
        {"fit_trace", "programs"},
    ],
    "testing": [
        {"folders", "keeping", "making", "training"},
        {"outcome", "tracing"},
        {"differing", "running"},
        {"fresh", "reporting"},
        {"checking"},
    ],
    "weights": [{"faults", "header", "mapping", "naming"}, {"file"}, {"fitting", "looking"}, {"loading", "saving"}],
    "schedules": [{"shapes"}, {"segments"}, {"ready"}],
}
#: Upper floors within a floor: `phases` stands on `step`, both below the callbacks and the engine.
STAIRS = {("phases", "step")}


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")


def imported(path: Path) -> set[tuple[str, ...]]:
    """The modules of this package that a file imports, anywhere in it, as parts of their names."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "jaxloop":
            parts = tuple((node.module or "").split(".")[1:])
            found |= {parts} if parts else {(alias.name,) for alias in node.names}
        if isinstance(node, ast.Import):
            found |= {tuple(alias.name.split(".")[1:]) for alias in node.names if alias.name.startswith("jaxloop.")}
    return found


def level(floors: list[set[str]], name: str) -> int:
    return next(index for index, floor in enumerate(floors) if name in floor)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_from_the_floors_below(path: Path) -> None:
    here = path.relative_to(PACKAGE).with_suffix("").parts
    for there in imported(path):
        if there[0] == here[0]:
            floors = ROOMS[here[0]]
            assert level(floors, there[1]) < level(floors, here[1]), f"{here} imports {there}"
        elif (here[0], there[0]) not in STAIRS:
            assert level(FLOORS, there[0]) < level(FLOORS, here[0]), f"{here} imports {there}"


def test_every_module_has_a_floor() -> None:
    tops = {path.relative_to(PACKAGE).with_suffix("").parts[0] for path in modules()}
    assert tops == set().union(*FLOORS)


def test_every_module_has_a_test_file_of_its_name_in_the_mirrored_place() -> None:
    tests = Path(__file__).parent
    expected = [tests / path.relative_to(PACKAGE).with_name(f"test_{path.name}") for path in modules()]
    assert [str(path.relative_to(tests)) for path in expected if not path.exists()] == []


def test_every_module_says_its_one_idea_in_its_first_line() -> None:
    for path in modules():
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        assert docstring, path
        assert docstring.splitlines()[0].endswith((".", ":")), path
