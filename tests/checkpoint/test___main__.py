"""The table says what there is, what is wrong with it, and what to do next."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jaxloop.checkpoint.__main__ import main
from jaxloop.checkpoint.leaves import flattened
from jaxloop.checkpoint.writer import Writer
from tests.checkpoint.saving import save, tree


def saved(directory: Path, *, value: float | None = None) -> None:
    writer = Writer(directory, keep=5, best=("validation_loss", "min"))
    for number, value in enumerate([0.5, 0.25, 0.75], start=1):
        about = {"step": 100 * number, "epoch": number, "where": "training, batch 7"}
        writer.write(flattened(tree(number)), about | {"saved_at": time.time() - 600}, value=value, wait=True)
    writer.close()


def test_the_table_shows_each_checkpoint_and_the_best(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved(tmp_path)
    assert main([str(tmp_path)]) == 0
    head, first, second, third, _, advice, hint = capsys.readouterr().out.splitlines()
    assert head.split() == ["checkpoint", "step", "epoch", "where", "size", "age", "note"]
    assert first.split()[:6] == ["00000001", "100", "1", "training,", "batch", "7"]
    assert first.endswith("10 min")
    assert second.endswith("best validation_loss: 0.25")
    assert "best" not in third
    assert advice == f"To go on from 00000003: fit(..., resume_from='{tmp_path}')"
    assert hint.endswith("--verify")


def test_verify_reads_everything_and_says_what_is_damaged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved(tmp_path)
    assert main([str(tmp_path), "--verify"]) == 0
    assert capsys.readouterr().out.count("verified") == 3
    path = tmp_path / "00000003" / "arrays" / "_METADATA"
    path.write_bytes(path.read_bytes()[:-1])
    assert main([str(tmp_path)]) == 0
    capsys.readouterr()
    assert main([str(tmp_path), "--verify"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[3].endswith("DAMAGED")
    assert "00000003/arrays/_METADATA is damaged: it has" in lines[5]
    assert lines[6].startswith("To go on from 00000002: ")
    assert lines[6].endswith("newer ones are moved aside then.")


def test_a_damaged_manifest_is_seen_without_verify(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path)
    (tmp_path / "00000001" / "manifest.json").write_text("{}")
    assert main([str(tmp_path)]) == 1
    assert "None can be used" in capsys.readouterr().out


def test_temporaries_and_damaged_ones_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path)
    (tmp_path / "00000002.writing").mkdir()
    (tmp_path / "00000003.damaged").mkdir()
    assert main([str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "00000002.writing" in out
    assert "a save under way, or one that was killed" in out
    assert "damaged, and moved aside" in out


def test_what_holds_none_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    for name, why in [("", "holds no checkpoint"), ("missing", "is no directory"), ("file", "is no directory")]:
        assert main([str(tmp_path / name)]) == 2
        assert why in capsys.readouterr().err
    assert main(["gs://bucket/run"]) == 2
    assert "Mount the bucket" in capsys.readouterr().err
    (tmp_path / "00000001.writing").mkdir()
    assert main([str(tmp_path)]) == 2
    assert "only 00000001.writing" in capsys.readouterr().err


def test_what_a_checkpoint_says_of_itself_moves_no_cursor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    writer = Writer(tmp_path, keep=1)
    odd = {"step": "\x1b[2J", "where": "a\nb", "epoch": None, "saved_at": "noon"}
    writer.write(flattened(tree()), odd, wait=True)
    writer.close()
    assert main([str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "a b" in out


@pytest.mark.slow
def test_it_runs_as_a_module(tmp_path: Path) -> None:
    save(tmp_path)
    root = Path(__file__).parents[2]
    run = subprocess.run(
        [sys.executable, "-m", "jaxloop.checkpoint", str(tmp_path), "--verify"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | {"PYTHONPATH": str(root)},
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert "verified" in run.stdout
