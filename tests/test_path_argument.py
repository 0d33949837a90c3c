"""Paths as arguments."""

from pathlib import Path
from typing import Any

import pytest

import jaxloop as jl
from jaxloop.path_argument import path_argument
from tests import small


def test_a_string_and_a_path_are_paths() -> None:
    assert (
        path_argument("where", "run/log.csv", "") == Path("run/log.csv") == path_argument("", Path("run/log.csv"), "")
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda: jl.callbacks.CSVLogger(None),  # type: ignore[arg-type]
        lambda: jl.callbacks.TensorBoardLogger(3),  # type: ignore[arg-type]
        lambda: jl.callbacks.Checkpoint(None),  # type: ignore[arg-type]
        lambda: jl.callbacks.Profiler(True, steps=(1, 2)),  # type: ignore[arg-type]
        lambda: jl.callbacks.ImageSaver(0),  # type: ignore[arg-type]
        lambda: small.training_loop().fit(small.model(), 1, resume_from=True),  # type: ignore[arg-type]
        lambda: jl.restore(small.training_loop(), "run", small.model()),  # type: ignore[arg-type]
        lambda: jl.save_weights(small.model(), "run/model.safetensors"),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_path_is_refused_by_the_name_of_the_argument(make: Any) -> None:
    with pytest.raises(TypeError, match=r"^\w+: (`\w+`|a directory) must be a path, got \w+\. Write 'run/"):
        make()
