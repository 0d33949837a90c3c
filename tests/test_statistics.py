"""Statistics through a whole fit: whole numbers in full, and what was not measured told from what has diverged."""

import csv
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxloop as jl
from jaxloop import Event, Phase, Scope
from jaxloop.measured import UNMEASURED, is_measured, unmeasured
from tests import small

START = 2**24  # from here on float32 has even numbers alone
VALIDATION = jl.in_batches(small.samples(8, seed=1), 4)


def tokens_seen(loop: jl.Loop, event: Event) -> jl.Loop:
    """Counts three tokens a step, and in uint32 from where int32 has ended."""
    loop = loop.remember("tokens", {"seen": jnp.int32(START), "high": jnp.uint32(2**31)})
    if event is not Event.UPDATE_START:
        return loop
    memory = {"seen": loop.callback_state["tokens"]["seen"] + 3, "high": loop.callback_state["tokens"]["high"] + 1}
    loop = loop.replace(callback_state=loop.callback_state | {"tokens": memory})
    return loop.record("tokens", memory["seen"]).record("high", memory["high"])


@dataclass(frozen=True)
class Examples:
    """How many examples there were, from `START` on."""

    name: str = "examples"

    def init(self) -> Any:
        return np.int32(START)

    def update(self, state: Any, *, output: Any, target: Any, loss: Any, weight: Any) -> Any:
        return state + (len(target) if weight is None else jnp.sum(weight != 0).astype(jnp.int32))

    def compute(self, state: Any) -> Any:
        return state + 1


@jl.on_host(Event.UPDATE_START, reads="step")
def looking(loop: Any, event: Event) -> None:
    """Cuts the step in two."""


@pytest.fixture(scope="module", params=["single", "fused", "apart"])
def fitted(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("log") / "log.csv"
    callbacks = [tokens_seen, jl.callbacks.CSVLogger(path), *([looking] if request.param == "apart" else [])]
    steps = 3 if request.param == "fused" else 1
    training_loop = small.training_loop(metrics=[Examples()], callbacks=callbacks, steps_per_dispatch=steps)
    loop, history = training_loop.fit(small.model(), 2)
    with path.open() as file:
        return training_loop, loop, history, list(csv.DictReader(file))


def test_a_recorded_whole_number_is_exact_in_every_row(fitted):
    _, loop, history, rows = fitted
    expected = START + 3 * np.arange(1, 7)
    assert history.batches["tokens"].tolist() == expected.tolist()
    assert history.batches["high"].tolist() == (2**31 + np.arange(1, 7)).tolist()
    assert [history.batches[name].dtype for name in ("tokens", "high", "loss")] == [np.int32, np.uint32, np.float32]
    assert [int(row["tokens"]) for row in rows if row["phase"] == "training"] == expected.tolist()
    assert [int(row["high"]) for row in rows if row["phase"] == "training"] == history.batches["high"].tolist()
    assert (loop.stats["tokens"], loop.stats["tokens"].dtype) == (expected[-1], np.int32)


def test_a_recorded_whole_number_is_exact_in_every_epoch(fitted):
    _, _, history, _ = fitted
    assert history.epochs["tokens"].tolist() == [START + 9, START + 18]
    assert history.epochs["tokens"].dtype == np.int32
    assert f"tokens {START + 18}" in repr(history)


def test_a_metric_that_counts_gives_whole_numbers(fitted):
    training_loop, loop, history, rows = fitted
    assert history.epochs["examples"].tolist() == [START + 13] * 2
    assert history.epochs["validation_examples"].tolist() == [START + 9] * 2
    assert [int(row["examples"]) for row in rows if row["phase"] == "validation"] == [START + 5, START + 9] * 2
    measured = training_loop.evaluate(loop, VALIDATION)
    assert (measured["examples"], type(measured["examples"])) == (START + 9, int)


def test_the_console_shows_a_whole_number_in_full(capsys):
    small.training_loop(metrics=[Examples()], progress=True).fit(small.model(), 1)
    assert f"examples {START + 13}, validation_examples {START + 9}" in capsys.readouterr().out


def test_whole_numbers_are_exact_for_those_who_own_the_loop(fitted):
    training_loop, _, _, _ = fitted
    batches = list(jl.TrainingEpochs(small.samples(12), batch_size=4)[0])
    loop = training_loop.begin_epoch(training_loop.start(small.model(), epochs=1))
    assert loop.stats["tokens"] == unmeasured(np.int32)
    assert "tokens -" not in repr(loop)
    for batch in batches[:1]:
        loop = training_loop.train_step(loop, batch)
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *batches[1:])
    loop, rows = training_loop.run_steps(loop, stacked)
    assert (rows["tokens"].tolist(), rows["tokens"].dtype) == ([START + 6, START + 9], jnp.int32)
    loop = training_loop.end_epoch(training_loop.eval_step(loop, batches[0]))
    assert loop.stats["validation_examples"] == START + 5


def test_a_whole_number_that_was_not_recorded_yet_has_no_number_anywhere(tmp_path):
    def late(loop, event):
        loop = loop.remember("late", jnp.int32(START))
        return loop.record("late", loop.callback_state["late"] + 1) if event is Event.EPOCH_END else loop

    callbacks = [late, jl.callbacks.CSVLogger(tmp_path / "log.csv")]
    _, history = small.training_loop(callbacks=callbacks).fit(small.model(), 2)
    assert is_measured(history.batches["late"]).tolist() == [False] * 3 + [True] * 3
    pandas = pytest.importorskip("pandas")
    table = pandas.read_csv(tmp_path / "log.csv")["late"]
    assert table.isna().tolist() == [True] * 5 + [False] * 5
    assert table.dropna().tolist() == [START + 1] * 5
    column = history.to_pandas("batches")["late"]
    assert (column.isna().tolist(), column.dtype.name) == ([True] * 3 + [False] * 3, "Int32")
    assert history.to_pandas()["late"].tolist() == [START + 1] * 2


@pytest.mark.parametrize("first", [Event.FIT_START, Event.BATCH_START])
def test_a_number_of_two_kinds_is_the_wider_one_from_the_first_row(first):
    def record(loop, event):
        if event is first:
            return loop.record("norm", 0)
        return loop.record("norm", 0.5) if event is Event.BATCH_END else loop

    _, history = small.training_loop(callbacks=[record], validation=None).fit(small.model(), 1)
    assert (history.batches["norm"].tolist(), history.batches["norm"].dtype) == ([0.5] * 3, np.float32)


def test_integers_in_one_place_and_fractions_in_another_are_refused_by_name():
    def record(loop, event):
        if event is Event.BATCH_END:
            return loop.record("norm", 0.5)
        return loop.record("norm", loop.step) if event is Event.BATCH_START else loop

    with pytest.raises(ValueError, match=r"Loop\.record: 'norm' is float32 elsewhere and int32 here") as caught:
        small.training_loop(callbacks=[record]).fit(small.model(), 1)
    assert "in callback" in "".join(caught.value.__notes__)


def test_a_metric_whose_number_changes_its_kind_is_refused_by_name():
    class Changing(Examples):
        def update(self, state, **seen):
            return state + 0.5

    with pytest.raises(TypeError, match="metrics: 'examples' gives float32, where an empty accumulator gave int32"):
        small.training_loop(metrics=[Changing()]).fit(small.model(), 1)


def test_a_metric_of_integers_of_64_bits_is_refused_by_name():
    class Wide(Examples):
        def compute(self, state):
            return state.astype(jnp.int64)

    with jax.enable_x64(True), pytest.raises(ValueError, match=r"metrics: 'examples' is int64.*jnp\.int32"):
        small.training_loop(metrics=[Wide()]).fit(small.model(), 1)


def test_a_phase_in_which_nothing_had_a_weight_has_measured_nothing(tmp_path):
    images, labels = small.samples(8)
    empty = jl.in_batches((images, labels, np.zeros(8, np.float32)), 4)
    metrics = ["accuracy", "perplexity", jl.metrics.MatthewsCorrelationCoefficient(3)]
    callbacks = [jl.callbacks.CSVLogger(tmp_path / "log.csv")]
    training_loop = small.training_loop(validation=empty, metrics=metrics, callbacks=callbacks)
    loop, history = training_loop.fit(small.model(), 1)
    names = [name for name in history.epochs if name.startswith("validation_")]
    assert [bool(is_measured(history.epochs[name][-1])) for name in names] == [False] * 4
    last = (tmp_path / "log.csv").read_text().splitlines()[-1]
    assert last.split(",")[2:7] == ["", "", "", "", "validation"]
    assert not any(map(is_measured, training_loop.evaluate(loop, empty).values()))


def diverging(loop: jl.Loop, event: Event) -> jl.Loop:
    """Makes the loss of the second epoch NaN, and leaves out the validation of the third."""
    if event is Event.BATCH_START:
        return loop.replace(input=jnp.where(loop.epoch_index == 1, jnp.nan, loop.input))
    if event is Event.UPDATE_START:
        gradient = jax.tree.map(lambda leaf: jnp.where(jnp.isfinite(leaf), leaf, 0), loop.gradient)
        return loop.replace(gradient=gradient)
    if event is Event.EPOCH_START:
        return loop.cancel(Scope.VALIDATION, when=loop.epoch_index == 2)
    return loop


@pytest.mark.parametrize("steps", [1, 3])
def test_what_has_diverged_is_nan_and_what_was_not_measured_is_nothing(steps, tmp_path, capsys):
    training_loop = small.training_loop(
        callbacks=[diverging, jl.callbacks.CSVLogger(tmp_path / "log.csv")], steps_per_dispatch=steps, progress=True
    )
    loop, history = training_loop.fit(small.model(), 3)
    column = history.epochs["validation_loss"]
    assert np.isnan(column).tolist() == [False, True, True]
    assert is_measured(column).tolist() == [True, True, False]
    assert not is_measured(loop.stats["validation_loss"])
    assert "validation_loss" not in repr(history)
    rows = [line.split(",") for line in (tmp_path / "log.csv").read_text().splitlines()]
    assert {row[2] for row in rows[1:] if row[0] == "2"} == {"nan"}
    shown = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Epoch")]
    assert "loss nan, validation_loss nan" in shown[1]
    assert "validation_loss" not in shown[2]
    assert [line.endswith("best") for line in shown] == [True, False, False]


def test_a_statistic_that_was_never_recorded_is_not_one_that_has_diverged():
    def record(loop, event):
        if event is Event.BATCH_END and loop.phase is Phase.VALIDATION:
            return loop.record("never", jnp.nan)
        return loop.cancel(Scope.VALIDATION) if event is Event.TRAINING_END else loop

    loop, history = small.training_loop(callbacks=[record]).fit(small.model(), 1)
    assert not is_measured(history.epochs["never"]).any()
    assert loop.stats["never"].view(np.int32) == UNMEASURED.view(np.int32)


def test_in_double_precision_whole_numbers_and_fractions_keep_their_32_bits():
    def numbered(loop, event):
        if event is not Event.BATCH_END:
            return loop
        return (
            loop.record("position", START + 1 + loop.step).record("share", loop.step / 3).record("flag", loop.step > 0)
        )

    with jax.enable_x64(True):
        _, history = small.training_loop(callbacks=[numbered], validation=None).fit(small.model(), 1)
    assert history.batches["position"].tolist() == [START + 1, START + 2, START + 3]
    assert [history.batches[name].dtype for name in ("position", "share", "flag")] == [np.int32, np.float32, np.float32]
    np.testing.assert_array_equal(history.batches["share"], np.float32(np.arange(3) / 3))
