"""The command that compiles for machines that are not there: its rows and its table."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxloop as jl
from benchmarks import slices
from benchmarks.slices import Row, Subject, compiled, main, report
from jaxloop.births import abstract
from tests import small


@pytest.fixture
def here(monkeypatch):
    """Lets one CPU stand for each machine, and a tiny model for each subject."""
    monkeypatch.setattr(jl.Placement, "is_there", False)
    monkeypatch.setattr(jl, "topology", lambda name: jl.Placement(jax.devices("cpu")[0]))
    subject = Subject(small.model, jl.losses.softmax_cross_entropy, ((4,), ()), np.float32, optax.adamw, 8)
    monkeypatch.setattr(slices, "SUBJECTS", {"tiny": subject})


def test_a_row_tells_what_a_step_with_every_callback_takes(here):
    row = compiled("there", "tiny", "data parallel", steps=2)
    parameters = 4 * (4 * 3 + 3)
    assert (row.chips, row.batch, row.steps, row.collectives) == (1, 8, 2, [])
    assert row.memory["parameters"] == parameters
    assert row.memory["optimizer"] == 2 * parameters  # its scalars travel with all others
    assert row.memory["other state"] > 2 * parameters  # an average, and the best
    assert row.peak is not None
    assert row.peak >= sum(row.memory.values())
    assert row.flops is not None
    assert row.flops > 3 * 2 * 8 * 4 * 3


def test_the_command_adds_rows_to_a_file_and_replaces_those_it_has(here, tmp_path, capsys):
    file = tmp_path / "rows.json"
    rows = main(["one", "--json", str(file), "--hlo", str(tmp_path)])
    assert [row.machine for row in rows] == ["one"]  # what is one chip is not divided
    rows = main(["two", "one", "--json", str(file)])
    assert [row.machine for row in rows] == ["two", "one"]
    assert capsys.readouterr().out.count("| one ") == 2
    assert (tmp_path / "one_tiny_data_parallel.hlo").read_text(encoding="utf-8").startswith("HloModule")


def test_what_the_compiler_gives_up_is_a_row_too(here, monkeypatch):
    def refuse(entered):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Ran out of memory.\nAnd much more.")

    monkeypatch.setattr(slices, "compiled_step", refuse)
    row = compiled("there", "tiny", "data parallel")
    assert (row.fits, row.why) == (False, "RESOURCE_EXHAUSTED: Ran out of memory.")
    assert "| NO " in report([row])
    assert "RESOURCE_EXHAUSTED: Ran out of memory. |" in report([row])


def test_the_table_says_what_it_was_made_with():
    memory = {"parameters": 4_000_000, "optimizer": 8_000_000, "other state": 0, "temporaries": 2_000_000}
    row = Row(
        *("v5e:2x2", "tiny", "data parallel", 4, "TPU v5 lite", 512, 4, memory),
        *(15_000_000, True, ["1 all-reduce of 4 MB"], 2.5e9, 0.0012, 61.2),
    )
    text = report([row])
    assert f"jax {jax.__version__}" in text.splitlines()[0]
    cells = [cell.strip() for cell in text.splitlines()[-1].strip("|").split("|")]
    assert cells == [
        *("v5e:2x2", "4", "tiny", "data parallel", "512, 4 steps at once", "4 MB", "8 MB", "0 MB", "2 MB", "15 MB"),
        *("yes, of 16 GiB", "1 all-reduce of 4 MB", "2.5e+09", "1.2 ms", "61"),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", slices.SUBJECTS)
def test_every_subject_is_traced_without_an_array(name):
    subject = slices.SUBJECTS[name]
    arrays = len(jax.live_arrays())
    model = abstract(subject.model)
    input = jax.ShapeDtypeStruct((2, *subject.shapes[0]), subject.dtype)
    output = jax.eval_shape(lambda model, input: model(input), model, input)
    target = jax.ShapeDtypeStruct((2, *subject.shapes[1]), jnp.int32)
    assert jax.eval_shape(subject.loss_fn, output, target).shape[0] == 2
    assert len(jax.live_arrays()) == arrays
