"""What is public stands in `__all__`, and tab completion shows just that."""

import ast
import importlib
import importlib.metadata
import inspect
import pkgutil
import re
from pathlib import Path
from types import ModuleType

import pytest

import jaxloop as jl

#: The rooms that users look into, and what they hold that is not for users.
ROOMS = {
    "jaxloop": set(),
    "jaxloop.callbacks": set(),
    "jaxloop.data": {"EmptyBatches", "one_epoch"},
    "jaxloop.errors": set(),
    "jaxloop.losses": {"spread_weight", "weighted_mean", "weighted_sum", "without_options"},
    "jaxloop.measured": {
        *("as_floats", "as_number", "as_statistic", "is_wider"),
        *("looks_into_values", "with_nan", "without_nan"),
    },
    "jaxloop.metrics": {"check_name", "is_scalar", "less_is_better", "resolve"},
    "jaxloop.schedules": set(),
    "jaxloop.schedules.shapes": {"AnyShape", "Rate"},
    "jaxloop.testing": set(),
    "jaxloop.weights": set(),
}

#: All packages; of those that are not in ROOMS nothing is hidden.
PACKAGES = [each.name for each in pkgutil.walk_packages(jl.__path__, "jaxloop.") if each.ispkg]


def offered(module: ModuleType) -> set[str]:
    """The names that a file defines, or imports to pass them on, as `from x import y as y`."""
    assert module.__file__ is not None
    names: set[str] = set()
    for node in ast.parse(Path(module.__file__).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            names |= {each.asname for each in node.names if each.asname == each.name and each.asname}
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return {name for name in names if not name.startswith("_")}


@pytest.mark.parametrize("room", sorted({*ROOMS, *PACKAGES}))
def test_all_holds_what_a_room_offers(room: str) -> None:
    module = importlib.import_module(room)
    hidden = ROOMS.get(room, set())
    assert set(module.__all__) == offered(module) - hidden, "put the name into __all__, or into ROOMS of this test"
    assert all(hasattr(module, name) for name in module.__all__)


@pytest.mark.parametrize("room", ROOMS)
def test_completion_shows_public_names_only(room: str) -> None:
    module = importlib.import_module(room)
    assert dir(module) == sorted(module.__all__)


@pytest.mark.parametrize("room", ROOMS)
def test_each_public_function_and_class_has_a_docstring(room: str) -> None:
    module = importlib.import_module(room)
    for name in module.__all__:
        thing = getattr(module, name)
        if inspect.isfunction(thing) or inspect.isclass(thing) or inspect.ismodule(thing):
            assert inspect.getdoc(thing), f"{room}.{name}"


def test_the_version_is_that_of_the_package() -> None:
    assert jl.__version__ == importlib.metadata.version("jaxloop")
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", jl.__version__)


def test_an_import_of_everything_brings_only_public_names() -> None:
    names: dict[str, object] = {}
    exec("from jaxloop import *", names)
    assert set(names) - {"__builtins__"} == set(jl.__all__)
