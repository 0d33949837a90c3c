"""`explain` prints what a fit would do."""

import io
from typing import Any

import jax
import pytest

import jaxloop as jl
from jaxloop import Event
from tests import small
from tests.compiling import counted_compiles, steps_in
from tests.devices import run_on_devices


def explained(training_loop: jl.TrainingLoop, *arguments: Any, **options: Any) -> str:
    file = io.StringIO()
    jl.explain(training_loop, *arguments, file=file, **options)
    return file.getvalue()


def marks(text: str, event: Event) -> list[str]:
    """What stands in the row of an event, a mark for each callback."""
    return next(line.split()[1:] for line in text.splitlines() if line.split()[:1] == [event.name])


@jl.on_host(Event.BATCH_END, Event.EPOCH_END)
def observe(loop, event):
    pass


@jl.on_host(Event.UPDATE_START, reads="step")
def look(loop, event):
    pass


CALLBACKS = (observe, jl.callbacks.clip_by_global_norm(1.0), look)


def test_with_a_model_it_says_where_each_callback_acts_and_how() -> None:
    text = explained(small.training_loop(callbacks=CALLBACKS), small.model())
    lines = [line.split(maxsplit=2) for line in text.splitlines()[1:4]]
    assert lines == [
        ["1", "clip_by_global_norm.clip", "compiled"],
        ["2", "observe", "on the host, reads stats"],
        ["3", "look", "on the host, reads step"],
    ]
    expected = {event: [".", ".", "."] for event in Event} | {
        Event.UPDATE_START: ["c", ".", "|"],
        Event.BATCH_END: [".", "o", "."],
        Event.EPOCH_END: [".", "p", "."],
    }
    assert {event: marks(text, event) for event in Event} == expected


def test_without_a_model_it_says_what_is_declared() -> None:
    text = explained(small.training_loop(callbacks=CALLBACKS))
    assert marks(text, Event.UPDATE_START) == ["?", ".", "|"]
    assert "explain(training_loop, model)" in text


def test_it_says_how_steps_are_dispatched_and_why() -> None:
    data = jl.TrainingEpochs(small.samples(4 * 37), 4)
    text = explained(small.training_loop(training=data, steps_per_dispatch="auto"), small.model())
    assert "training_step: 37 steps, dispatched as 1 x 32 + 5: a step has" in text
    assert "validation_step: 2 steps, dispatched as 1 x 2: " in text
    text = explained(small.training_loop(training=data, steps_per_dispatch=10), small.model())
    assert "training_step: 37 steps, dispatched as 3 x 10 + 7: as given" in text
    text = explained(small.training_loop(callbacks=[look]), small.model())
    assert "training_step: 3 steps, dispatched as 3 x 1: the host looks into each step" in text
    assert "cut at UPDATE_START" in text


def test_it_names_the_events_between_steps_that_have_programs() -> None:
    def count(loop, event):
        return loop.remember("count", 0) if event is Event.FIT_START else loop

    assert "between steps: FIT_START\n" in explained(small.training_loop(callbacks=[count]), small.model())


def test_it_sums_up_the_model() -> None:
    text = " ".join(explained(small.training_loop(), small.model()).split())
    assert "params['kernel'] 12 numbers in 1 array 4.8e-05 MB" in text
    assert "params, all 15 numbers in 2 arrays 6e-05 MB" in text
    assert "state['passes'] 1 numbers in 1 array 4e-06 MB" in text


def test_no_step_is_compiled_and_no_host_callback_called() -> None:
    called: list[Event] = []
    training_loop = small.training_loop(callbacks=[small.witness(called)], progress=True)
    with counted_compiles() as counts:
        explained(training_loop, small.model())
    assert steps_in(counts) == {}
    assert called == []


def test_it_prints_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    jl.explain(small.training_loop())
    assert capsys.readouterr().out == (
        "Callbacks\n  none\nGive a model to see the programs: explain(training_loop, model).\n"
    )


def test_a_checkpoint_is_shown_as_what_it_is(tmp_path) -> None:
    text = explained(
        small.training_loop(callbacks=[jl.callbacks.Checkpoint(tmp_path / "run", every=100)]), small.model()
    )
    assert "Checkpoint  saves the run after all others, every 100 steps" in text
    assert not (tmp_path / "run").exists()


def test_it_says_in_a_line_how_batches_are_split_and_in_what_they_are_computed() -> None:
    text = explained(small.training_loop(accumulate=2, compute_dtype="bfloat16"), small.model())
    assert "  a batch of training is taken as 2 microbatches; forward passes are computed in bfloat16\n" in text
    assert "microbatches" not in explained(small.training_loop(), small.model())


def test_on_several_devices_it_says_what_lies_where_and_on_request_what_a_step_sends() -> None:
    run_on_devices(
        """
import io, sys
import numpy as np, optax
import jaxloop as jl
sys.path.insert(0, ".")
from tests import small
from tests.test_explain import explained

def training_loop():
    return small.training_loop(
        training=jl.TrainingEpochs(small.samples(32, features=64, classes=32), 16),
        validation=None, optimizer=optax.adamw(1e-3), callbacks=[jl.callbacks.ema(0.9)],
    )

model = small.model(features=64, classes=32)
kernel, bias = 4 * 64 * 32, 4 * 32
sharded = explained(training_loop(), model, on=jl.fully_sharded())
assert "Programs\\n  on 8 devices (cpu): data=8; the batch by data, parameters by their largest axis" in sharded
rows = {line.split("  ")[1]: line for line in sharded.split("Model\\n")[1].splitlines()}

def held(name):
    return float(rows[name].split("MB,")[1].split("MB")[0])

assert held("params['kernel']") == round(kernel / 8 / 1e6, 6), rows
assert rows["params['kernel']"].endswith("of each device: 1 divided by data"), rows
assert rows["params['bias']"].endswith("of each device: none divided"), rows
assert held("optimizer") == round((2 * (kernel / 8 + bias) + 4) / 1e6, 6), rows
assert rows["optimizer"].endswith("of each device: 2 divided by data"), rows
assert held("callbacks remember") < (kernel / 8 + bias + 100) / 1e6, rows
assert "sends" not in sharded

parallel = explained(training_loop(), model, on=jl.data_parallel(), costs=True)
assert parallel.count("a step sends: 1 all-reduce of ") == parallel.count("a step sends: ") == 1, parallel
assert f"{(kernel + bias) / 1e6:.4g} MB" in parallel, parallel
""",
        8,
    )


def test_of_what_was_compiled_it_tells_what_compile_tells() -> None:
    training_loop = small.training_loop()
    assert "memory of one device" not in explained(training_loop, small.model())
    training_loop.compile(small.model())
    with counted_compiles() as counts:
        text = explained(training_loop, small.model())
    assert steps_in(counts) == {}
    assert text.count("memory of one device (cpu)") == 2


def test_a_machine_that_is_not_there_is_explained_without_an_array(monkeypatch) -> None:
    there = explained(small.training_loop(callbacks=[jl.callbacks.ema(0.9)]), small.model())
    monkeypatch.setattr(jl.Placement, "is_there", False)
    arrays = len(jax.live_arrays())
    assert explained(small.training_loop(callbacks=[jl.callbacks.ema(0.9)]), small.model()) == there
    assert len(jax.live_arrays()) == arrays
