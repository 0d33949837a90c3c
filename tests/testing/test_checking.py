"""`check_callback` lets those pass that go on after a kill, and names what is wrong with the others."""

import re
from pathlib import Path
from typing import Any

import pytest

import jaxloop as jl
from jaxloop import Event
from jaxloop.testing import check_callback
from jaxloop.testing.checking import check_callback as same
from tests import small
from tests.testing import candidates


def quickly(callback: Any, **options: Any) -> None:
    """A check at a few places."""
    check_callback(callback, **({"steps_per_dispatch": [1], "every": 7} | options))


def failure(callback: Any, **options: Any) -> str:
    with pytest.raises(AssertionError) as raised:
        quickly(callback, **options)
    return str(raised.value)


def test_it_is_exported() -> None:
    assert jl.testing.check_callback is check_callback is same


@pytest.mark.slow
@pytest.mark.parametrize(
    "callback",
    [candidates.remembering, candidates.CountingOn, candidates.csv, candidates.tensorboard],
)
def test_callbacks_that_go_on_pass_at_some_places(callback: Any) -> None:
    quickly(callback)


@pytest.mark.slow
@pytest.mark.parametrize(
    "callback",
    [candidates.average, candidates.stopping, candidates.csv, candidates.tensorboard, candidates.Appending],
)
def test_callbacks_that_go_on_pass_at_every_place(callback: Any) -> None:
    check_callback(callback)


@pytest.mark.exhaustive
def test_several_callbacks_are_checked_together_in_this_process_with_a_training_of_ones_own() -> None:
    quickly(
        lambda folder: [jl.callbacks.ema(0.9), jl.callbacks.stop_on_non_finite(), candidates.csv(folder)],
        training_loop=lambda: small.training_loop(callbacks=[jl.callbacks.clip_by_global_norm(1.0)]),
        model=small.model,
        steps_per_dispatch=[2],
        epochs=1,
    )


@pytest.mark.exhaustive
def test_a_count_in_an_attribute_without_a_memory_is_found_in_the_file_and_in_the_attribute() -> None:
    text = failure(candidates.Counting, every=3)
    assert "Counting does not go on as if it had not been killed. At 1 step a dispatch, epoch 1 of 2, " in text
    assert re.search(r"file epoch 2.txt, line 1: '\d+ rows\\n', should be '16 rows\\n'", text)
    assert re.search(r"attribute of Counting: count: \d+, should be 16", text)
    assert "needs two methods. `state()` gives all of it as JSON" in text


@pytest.mark.exhaustive
def test_a_log_that_is_not_cut_is_found_by_its_first_line_too_many() -> None:
    text = failure(candidates.AppendingTwice, every=3)
    assert re.search(r"its files as at the end of the run:\n  file log.txt: line 17 is too many, 'training \d ", text)
    assert "`resume` must cut each file to what it was when `state` was called" in text


@pytest.mark.exhaustive
def test_a_log_that_is_written_late_is_found_by_its_first_missing_line() -> None:
    text = failure(candidates.AppendingLate, every=3)
    assert re.search(r"file log.txt, line 1: 'training \d.*, should be 'training 0 .* lines, should be 16", text)
    assert "flush, then os.fsync" in text


def test_a_memory_that_is_no_json_is_found_at_the_save() -> None:
    text = failure(candidates.CountingInSets)
    assert "CountingInSets fails in a run that is saved:\n  TypeError: Object of type set is not JSON" in text
    assert "while the state of callback 'CountingInSets' was saved" in text


def test_saving_that_changes_something_is_found() -> None:
    text = failure(candidates.WritingWhenAsked)
    assert "saving the run changes it, with 1 step a dispatch:\n  file log.txt, line 1: 'saved\\n', should be" in text
    assert "must change nothing that is seen later" in text


@pytest.mark.exhaustive
def test_random_numbers_of_its_own_are_found_at_the_first_row_and_leaf() -> None:
    text = failure(candidates.Noisy)
    assert re.search(r"row of training batch \d of epoch \d \(call \d+ to host callbacks\), learning_rate: 0.01", text)
    assert "leaf .model.params['bias']: at [0]: " in text


def test_compiled_callbacks_with_state_in_variables_are_found() -> None:
    assert "'counting_in_a_variable.counted', traced twice at UPDATE_START" in failure(
        candidates.counting_in_a_variable
    )
    text = failure(candidates.watching_in_a_variable)
    assert "a compiled callback changes variables while it is traced:\n  events of watching_in_a_variable" in text
    assert "loop.remember(name, value)" in text


@pytest.mark.exhaustive
def test_a_host_function_that_counts_in_its_module_is_found_and_may_be_allowed() -> None:
    text = failure(candidates.counting_in_the_module)
    assert "keeps what changes in variables, which a new process begins again with:\n  global _lost of" in text
    seen: list[Event] = []

    @jl.on_host(Event.EPOCH_END)
    def watch(loop: Any, event: Event) -> None:
        seen.append(event)

    assert "seen of " in failure(watch)
    quickly(watch, ignore=["seen"])


@pytest.mark.exhaustive
def test_what_differs_between_two_runs_anyway_is_found_before_anything_is_saved() -> None:
    runs = []

    def make(folder: Path) -> Any:
        runs.append(folder)

        @jl.on_host(Event.FIT_START)
        def number(loop: Any, event: Event) -> None:
            (folder / "number.txt").write_text(f"{len(runs)}")

        return number

    text = failure(make)
    assert "two uninterrupted runs, one after the other, differ:\n  file number.txt, line 1" in text
    quickly(make, ignore=["*.txt", "runs"])


@pytest.mark.exhaustive
def test_a_cancel_that_is_heard_late_differs_by_the_steps_of_a_dispatch() -> None:
    @jl.on_host(Event.BATCH_END)
    def stop(loop: Any, event: Event) -> None:
        loop.cancel(jl.Scope.TRAINING, when=int(loop.batch_index) == 0)

    text = failure(stop, steps_per_dispatch=[1, 3], every=20)
    assert "with 3 steps a dispatch it gives something else than before" in text
    assert "steps_per_dispatch=[1]" in text


def test_what_a_callback_raises_without_an_interruption_is_raised_with_a_note() -> None:
    @jl.on_host(Event.EPOCH_END)
    def broken(loop: Any, event: Event) -> None:
        raise KeyError("its own")

    with pytest.raises(KeyError, match="its own") as raised:
        quickly(broken)
    assert "jaxloop: check_callback: while it ran without an interruption" in raised.value.__notes__


@pytest.mark.parametrize(
    "wrong", [{"every": 0}, {"epochs": 0}, {"steps_per_dispatch": []}, {"steps_per_dispatch": [0]}]
)
def test_arguments_out_of_bounds_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="check_callback: `epochs`, `every` and each of `steps_per_dispatch` must be"):
        check_callback(candidates.csv, **wrong)
