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


def test_the_home_folder_may_be_a_tilde(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    callbacks = [jl.callbacks.CSVLogger("~/log.csv"), jl.callbacks.Checkpoint("~/run")]
    training_loop = small.training_loop(callbacks=callbacks)
    loop, _ = training_loop.fit(small.model(), 1, resume_from="~/run")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.csv", "run"]
    assert jl.restore("~/run", training_loop, small.model()).step == loop.step
    assert jl.callbacks.WandbLogger("p", directory="~/tracked").directory == tmp_path / "tracked"


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
