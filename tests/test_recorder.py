"""The history of runs that are killed and resumed: bit for bit that of a run that is not, but for its seconds."""

import json

import numpy as np
import pytest

from jaxloop import recorder as history
from jaxloop.errors import CorruptCheckpointError, StateMismatchError
from jaxloop.events import Event, Phase, Plan
from jaxloop.recorder import Recorder
from tests.callbacks import replaying

CLOCKS = ("seconds", "examples_per_second")


class Journals:
    """The two files beside a checkpoint, as the engine keeps them: only what is new is appended."""

    def __init__(self):
        self.files = {"batches": b"", "epochs": b""}

    def save(self, recorder):
        state = replaying.saved(recorder)
        new = recorder.written({name: len(content) for name, content in self.files.items()})
        self.files = {name: content + new[name] for name, content in self.files.items()}
        assert state["journals"] == {name: len(content) for name, content in self.files.items()}
        return state


def exactly(one, *, clocks=False):
    """Everything in a history, by dtype and bits; without what a clock has measured."""
    return {
        (rows, name): (column.dtype, column.tobytes())
        for rows in ("epochs", "batches")
        for name, column in getattr(one, rows).items()
        if clocks or name not in CLOCKS
    }


@pytest.fixture(scope="module", params=[("batch", 1), ("batch", 2), ("epoch", 1)], ids=lambda it: f"{it[0]}-{it[1]}")
def run(request):
    report, steps = request.param
    return replaying.written_down(report=report, steps_per_dispatch=steps)


def test_a_history_is_that_of_an_uninterrupted_run_wherever_it_was_saved(run):
    plan, told, _ = run
    whole = Recorder(plan, {})
    replaying.tell(whole, told)
    expected = exactly(whole.history("completed"))
    assert len(expected) > 15
    for save in range(1, len(told) + 1):
        first, journals = Recorder(plan, {}), Journals()
        replaying.tell(first, told[: save // 2])
        journals.save(first)  # an earlier checkpoint
        replaying.tell(first, told[save // 2 : save])
        state = journals.save(first)
        replaying.tell(first, told[save : save + 3])
        journals.save(first)  # the files have grown, and the checkpoint was never committed
        second = Recorder(plan, {})
        second.resume(replaying.view_after(told[:save]), state, journals.files)
        replaying.tell(second, told[save:])
        assert exactly(second.history("completed")) == expected, save
        assert list(second.history("completed").epochs) == list(whole.history("completed").epochs)


def test_a_run_that_was_finished_has_its_whole_history_with_its_seconds(run):
    plan, told, _ = run
    first, journals = Recorder(plan, {}), Journals()
    replaying.tell(first, told)
    state = journals.save(first)
    second = Recorder(plan, {})
    second.resume(replaying.view_after(told), state, journals.files)
    assert exactly(second.history("completed"), clocks=True) == exactly(first.history("completed"), clocks=True)
    again = journals.save(second)
    clocks = ("epoch_seconds", "training_seconds")
    assert {name: again[name] for name in again if name not in clocks} == {
        name: state[name] for name in state if name not in clocks
    }


def test_values_that_json_does_not_hold_come_back_by_their_bits(view, columns):
    payload = np.array([0x7FC04A4C, 0xFFC00123, 0x7F800000, 0x80000000], np.uint32).view(np.float32)
    counts = np.array([2**31 - 1, -(2**31), 2**24 + 1, 0], np.int32)
    large = np.array([2**32 - 1, 2**31, 1, 0], np.uint32)
    first, journals = Recorder(Plan(4, 1, ("loss",)), {}), Journals()
    for epoch in range(4):
        at = slice(epoch, epoch + 1)
        stats = {"loss": payload[epoch], "validation_loss": payload[epoch], "count": counts[epoch]}
        first.rows(columns(epoch=epoch + 1, loss=payload[at], count=counts[at], large=large[at]))
        first(view(epoch=epoch + 1, stats=stats | {"large": large[epoch]}), Event.EPOCH_END)
    state = journals.save(first)
    second = Recorder(Plan(4, 1, ("loss",)), {})
    second.resume(view(), state, journals.files)
    found = second.history("completed")
    assert exactly(found) == exactly(first.history("completed"))
    assert found.epochs["count"].dtype == np.int32
    assert found.epochs["large"].tolist() == large.tolist()
    assert found.batches["loss"].tobytes() == payload.tobytes()
    assert found.epochs["epoch"].dtype == np.array([1]).dtype


def test_seconds_go_on_without_the_time_between_and_without_compiling(clock_of, view, columns):
    clock = clock_of(history)
    first = Recorder(Plan(1, 4, ("loss",)), {"step": 50.0})
    first(view(), Event.EPOCH_START)
    clock.now += 1
    first(view(Phase.TRAINING), Event.TRAINING_START)
    clock.now += 3
    first.rows(columns(batch_size=8, loss=[0.5, 0.25]))
    state, files = replaying.saved(first), first.written({})

    clock.now += 10_000  # the machine was off
    compile_seconds = {"step": 7.0}
    second = Recorder(Plan(1, 4, ("loss",)), compile_seconds)
    second.resume(view(), state, files)
    compile_seconds["another"] = 2.0
    clock.now += 2 + 1
    second.rows(columns(batch_size=8, batch_index=2, step=2, loss=[0.5, 0.25]))
    second(view(Phase.TRAINING), Event.TRAINING_END)
    clock.now += 5
    second(view(epoch=1, stats={"loss": 0.25, "validation_loss": 1.0}), Event.EPOCH_END)
    epochs = second.history("completed").epochs
    assert epochs["seconds"].tolist() == [1 + 3 + 2 + 1 + 5]
    assert epochs["examples_per_second"].tolist() == [4 * 8 / (3 + 1)]


def test_a_save_costs_what_is_new(view, columns):
    recorder = Recorder(Plan(1, 1, ("loss",)), {})
    sizes = []
    for step in range(3):
        recorder.rows(columns(step=1000 * step, loss=[0.5] * 1000))
        before = {"batches": sum(sizes), "epochs": 0}
        sizes.append(len(recorder.written(before)["batches"]))
        assert len(json.dumps(replaying.saved(recorder))) < 2000
    assert sizes[0] == sizes[1] == sizes[2] >= 4000


def test_columns_that_lie_elsewhere_in_the_next_process_are_put_in_their_place(view, columns):
    first = Recorder(Plan(1, 1, ("loss", "a")), {})
    first.rows(columns(loss=[0.5], a=[1.0], b=np.array([7], np.int32)))
    state, files = replaying.saved(first), first.written({})
    second = Recorder(Plan(1, 1, ("loss", "a")), {})
    second.resume(view(), state, files)
    second.rows(columns(step=1, b=np.array([8], np.int32), a=[2.0], loss=[0.25]))
    batches = second.history("completed").batches
    assert {name: batches[name].tolist() for name in ("loss", "a", "b")} == {
        "loss": [0.5, 0.25],
        "a": [1.0, 2.0],
        "b": [7, 8],
    }
    with pytest.raises(StateMismatchError, match="The statistics have changed within the run"):
        second.rows(columns(step=1, loss=[0.25]))


@pytest.mark.parametrize("name", ["batches", "epochs"])
def test_a_journal_that_was_cut_is_an_error_with_the_fix(run, name):
    plan, told, _ = run
    first = Recorder(plan, {})
    replaying.tell(first, told)
    state, files = replaying.saved(first), first.written({})
    size = len(files[name])
    with pytest.raises(
        CorruptCheckpointError, match=rf"journal of {name} must hold the {size} bytes.*has {size - 1}\. Put"
    ):
        Recorder(plan, {}).resume(replaying.view_after(told), state, files | {name: files[name][:-1]})


def test_a_run_that_stopped_before_its_first_row_has_none(run):
    plan, told, _ = run
    first, journals = Recorder(plan, {}), Journals()
    replaying.tell(first, told[:1])
    second = Recorder(plan, {})
    second.resume(replaying.view_after(told[:1]), journals.save(first), journals.files)
    assert exactly(second.history("preempted")) == {}
