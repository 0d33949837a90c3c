"""Two outcomes are compared bit for bit, and what differs is named."""

import copy
from pathlib import Path
from typing import Any

import numpy as np

import jaxloop as jl
from tests import small
from tests.reliability.outcomes import differences, outcome


def made(folder: Path) -> tuple[dict[str, Any], jl.Loop, jl.History]:
    folder.mkdir()
    loop, history = small.training_loop(callbacks=[jl.callbacks.CSVLogger(folder / "log.csv")]).fit(small.model(), 2)
    return outcome(folder, loop, history), loop, history


def test_equal_runs_have_no_differences_and_each_bit_is_one(tmp_path: Path) -> None:
    one, loop, history = made(tmp_path / "one")
    other, _, _ = made(tmp_path / "other")
    assert differences(one, other) == []
    assert one["stopped"] == "completed"

    kernel = np.array(loop.model.params["kernel"])
    kernel.view(np.int32)[0, 0] ^= 1
    changed = loop.replace(model=loop.model.replace(params=loop.model.params | {"kernel": kernel}))
    (found,) = differences(one, outcome(tmp_path / "one", changed, history))
    assert found.startswith("/loop/.model.params['kernel']/bits: '")


def test_the_payload_of_a_nan_and_the_sign_of_a_zero_are_bits_like_any(tmp_path: Path) -> None:
    one, loop, history = made(tmp_path / "one")
    for value in (np.float32(np.nan), np.uint32(0x7FC00001).view(np.float32), np.float32(-0.0), np.float32(0.0)):
        changed = loop.replace(stats=loop.stats | {"loss": value})
        assert differences(one, outcome(tmp_path / "one", changed, history))[0].startswith("/loop/.stats['loss']/bits")
        one = outcome(tmp_path / "one", changed, history)


def test_a_key_a_dtype_and_a_leaf_that_is_missing_are_seen(tmp_path: Path) -> None:
    one, loop, history = made(tmp_path / "one")
    moved = loop.replace(key=jl.Loop.step_key(loop, "other"))
    assert differences(one, outcome(tmp_path / "one", moved, history))[0].startswith("/loop/.key/bits")
    cast = loop.replace(step=np.float32(loop.step))
    assert any(
        line.startswith("/loop/.step/dtype: 'int32' against 'float32'")
        for line in differences(one, outcome(tmp_path / "one", cast, history))
    )
    fewer = loop.replace(stats={name: value for name, value in loop.stats.items() if name != "loss"})
    assert differences(one, outcome(tmp_path / "one", fewer, history)) == ["/loop/.stats['loss']: only in the first"]


def test_rows_that_are_lost_doubled_or_changed_are_seen(tmp_path: Path) -> None:
    one, _, _ = made(tmp_path / "one")
    for change, said in (
        (lambda rows: rows.pop(), "/csv: 11 against 10"),
        (lambda rows: rows.append(rows[-1]), "/csv: 11 against 12"),
        (lambda rows: rows.__setitem__(2, "1,2"), "/csv[2]: '"),
    ):
        other = copy.deepcopy(one)
        change(other["csv"])
        (found,) = differences(one, other)
        assert found.startswith(said)


def test_clocks_are_not_compared(tmp_path: Path) -> None:
    one, loop, history = made(tmp_path / "one")
    later = {
        name: column + 1 if name in ("seconds", "examples_per_second") else column
        for name, column in history.epochs.items()
    }
    shifted = jl.History(later, history.batches, history.stopped)
    assert differences(one, outcome(tmp_path / "one", loop, shifted)) == []
