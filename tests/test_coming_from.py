"""Each line that the guide for newcomers shows is one of this library: its names and arguments exist."""

import ast
import dataclasses
import datetime
import functools
import inspect
import re
from pathlib import Path
from typing import Any

import numpy as np
import optax
import pytest
from flax import nnx

import jaxloop as jl

GUIDE = Path(__file__).parents[1] / "examples" / "guides" / "coming_from.md"
LIBRARIES = ("Swift for TensorFlow", "Keras", "Lightning", "fastai", "A loop by hand")
#: What a name in the tables stands for: a class is that of the object.
NAMES: dict[str, Any] = {
    "jl": jl,
    "optax": optax,
    "loop": jl.Loop,
    "model": jl.Model,
    "training_loop": jl.TrainingLoop,
    "history": jl.History,
}
FIELDS = {kind: [field.name for field in dataclasses.fields(kind)] for kind in (jl.Loop, jl.History, jl.Model)}


def rows(library: str) -> list[str]:
    """The last cells of the table of a library."""
    section = GUIDE.read_text(encoding="utf-8").split(f"\n## {library}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [line.strip("|").split(" | ")[-1].strip() for line in lines if not line.startswith(("| there", "| ---"))]


def target_of(node: ast.expr) -> Any:
    """The object that an expression names, or the class of it; None if it is a value that only stands for something.

    Raises:
      AttributeError: there is no such name.
    """
    if isinstance(node, ast.Name):
        return NAMES.get(node.id)
    if isinstance(node, ast.Call):
        called = target_of(node.func)
        return called if inspect.isclass(called) else None
    if isinstance(node, ast.Attribute):
        owner = target_of(node.value)
        if owner is None:
            return None
        if node.attr in FIELDS.get(owner, ()):
            return jl.Model if node.attr == "model" else None
        return getattr(owner, node.attr)
    return None


def check(code: str) -> None:
    """Fails unless each name in `code` exists, and each call has arguments that it takes."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Attribute):
            target_of(node)
        if isinstance(node, ast.Call) and (function := target_of(node.func)) is not None:
            given = [None] * (len(node.args) + _has_self(node.func))
            function = function.__call__ if _is_field(node.func) else function
            inspect.signature(function).bind(*given, **{keyword.arg or "": None for keyword in node.keywords})


def _is_field(function: ast.expr) -> bool:
    """Whether what is called is an object that another one holds, such as `loop.model`."""
    return isinstance(function, ast.Attribute) and function.attr in FIELDS.get(target_of(function.value), ())


def _has_self(function: ast.expr) -> bool:
    """Whether what is called is a method, taken from the class in place of its object."""
    if _is_field(function):
        return True
    owner = target_of(function.value) if isinstance(function, ast.Attribute) else None
    return inspect.isclass(owner) and inspect.isfunction(inspect.getattr_static(owner, function.attr))


@pytest.mark.parametrize("library", LIBRARIES)
def test_each_line_of_a_table_names_what_there_is(library: str) -> None:
    found = rows(library)
    assert len(found) >= 20
    for row in found:
        spans = re.findall(r"`([^`]+)`", row)
        assert spans or row.startswith("nothing"), row
        for span in spans:
            check(span)


@pytest.mark.parametrize("code", ["jl.no_such", "training_loop.fit(model, epoch=1)", "loop.no_such", "jl.Event.NONE"])
def test_the_check_finds_what_there_is_not(code: str) -> None:
    with pytest.raises((AttributeError, TypeError)):
        check(code)


#: What the names in the tables stand for, where a line is run.
SAMPLES = (np.zeros((4096, 4), np.float32), np.zeros(4096, np.int32))
STANDING = {
    "jl": jl,
    "optax": optax,
    "functools": functools,
    "datetime": datetime,
    "x": SAMPLES[0],
    "y": SAMPLES[1],
    "training": SAMPLES,
    "validation": SAMPLES,
    "samples": SAMPLES,
    "loader": [SAMPLES],
    "weight": np.ones(4096),
    "optimizer": optax.sgd(0.1),
    "loss_fn": jl.losses.softmax_cross_entropy,
    "weights": np.ones(3),
    "callback": lambda loop, event: loop,
    "step": lambda model, loop: (0.0, loop),
    "transform": lambda batch: batch,
    "segments": jl.one_cycle(0.1),
    "schedule": optax.constant_schedule(0.1),
    "directory": "run/checkpoints",
    "module": nnx.Linear(4, 3, rngs=nnx.Rngs(0)),
    "trained": nnx.Param,
    "event": jl.Event.UPDATE_START,
    "logits": np.zeros((4, 3), np.float32),
    "target": np.zeros(4, np.int32),
}
#: Lines that train, that need a file, or that need what a loop holds.
NOT_RUN = re.compile(
    r"(training_loop|loop|history|model|print|jax|\[|jl\.(find_|largest_|benchmark|restore|explain|load_|save_|collate|pad_))"
    r"|jl\.(NonuniformTrainingEpochs|losses\.sigmoid_|Model\.from_linen)|\w+$"
)


@pytest.mark.parametrize("library", LIBRARIES)
def test_each_line_that_makes_something_makes_it(library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    spans = [span for row in rows(library) for span in re.findall(r"`([^`]+)`", row)]
    run = [span for span in spans if not NOT_RUN.match(span)]
    assert len(run) >= 8
    for span in run:
        if "wandb" in span.lower() or "mlflow" in span.lower():
            continue
        assert eval(span, dict(STANDING)) is not None, span
