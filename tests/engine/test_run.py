"""The run: every event in its place, whichever way the steps are dispatched."""

import functools
import importlib.util
import math
from typing import Any

import jax
import numpy as np
import pytest

import jaxloop as jl
from jaxloop import Event, measured
from jaxloop.engine import delivery
from tests import small
from tests.compiling import counted_compiles, steps_in
from tests.event_files import only_run, scalars

TRAIN_STEP = [Event.BATCH_START, Event.UPDATE_START, Event.BATCH_END]
EVAL_STEP = [Event.BATCH_START, Event.INFERENCE_PREDICTION_END, Event.BATCH_END]


def expected_events(epochs: int, training: int, validation: int) -> list[Event]:
    """The trace of a fit that nothing cancels, as the design has it."""
    phases = [Event.TRAINING_START, *TRAIN_STEP * training, Event.TRAINING_END]
    phases += [Event.VALIDATION_START, *EVAL_STEP * validation, Event.VALIDATION_END]
    return [Event.FIT_START, *[Event.EPOCH_START, *phases, Event.EPOCH_END] * epochs, Event.FIT_END]


@pytest.mark.parametrize("reads", ["stats", "step", "loop"])
def test_a_host_callback_sees_all_twelve_events_in_order(reads: str) -> None:
    seen: list[Event] = []
    small.training_loop(callbacks=[small.witness(seen, reads=reads)]).fit(small.model(), 2)
    assert seen == expected_events(2, 3, 2)


@pytest.mark.parametrize("steps_per_dispatch", [1, 2, 3, 5])
def test_a_compiled_callback_sees_all_twelve_events_in_order(steps_per_dispatch: int) -> None:
    training_loop = small.training_loop(callbacks=[small.traced()], steps_per_dispatch=steps_per_dispatch)
    loop, _ = training_loop.fit(small.model(), 2)
    assert small.trace_of(loop) == expected_events(2, 3, 2)


def test_compiled_and_host_callbacks_together_see_the_same_events() -> None:
    seen: list[Event] = []
    training_loop = small.training_loop(callbacks=[small.traced(), small.witness(seen)], steps_per_dispatch=3)
    loop, _ = training_loop.fit(small.model(), 2)
    assert small.trace_of(loop) == seen == expected_events(2, 3, 2)


def test_a_fit_without_validation_has_no_validation_events() -> None:
    loop, _ = small.training_loop(callbacks=[small.traced()], validation=None).fit(small.model(), 1)
    step_events = [Event.TRAINING_START, *TRAIN_STEP * 3, Event.TRAINING_END]
    assert small.trace_of(loop) == [
        Event.FIT_START,
        Event.EPOCH_START,
        *step_events,
        Event.EPOCH_END,
        Event.FIT_END,
    ]


def test_callbacks_are_called_in_list_order_with_compiled_ones_first() -> None:
    order: list[str] = []

    def told(name: str, on: Event):
        def compiled(loop, event):
            if event is on:
                jax.debug.callback(lambda: order.append(name), ordered=True)
                return loop.record(name, 1.0)
            return loop

        return compiled

    @jl.on_host(Event.EPOCH_END)
    def first_host(loop, event):
        order.append("first host")

    @jl.on_host(Event.EPOCH_END)
    def second_host(loop, event):
        order.append("second host")

    callbacks = [first_host, told("a", Event.EPOCH_END), second_host, told("b", Event.EPOCH_END)]
    small.training_loop(callbacks=callbacks).fit(small.model(), 1)
    assert order == ["a", "b", "first host", "second host"]


def test_an_observer_is_handed_every_row_in_order_and_one_dispatch_late() -> None:
    steps: list[int] = []
    sent: list[int] = []

    @jl.on_host(Event.BATCH_END)
    class Observer:
        def __call__(self, loop, event):
            raise AssertionError("rows come through `rows`")

        def rows(self, columns):
            steps.extend(columns["step"].tolist())
            sent.append(len(columns["step"]))

    data = jl.TrainingEpochs(small.samples(4 * 7), 4)
    small.training_loop(training=data, validation=None, callbacks=[Observer()], steps_per_dispatch=3).fit(
        small.model(), 2
    )
    assert steps == list(range(14))
    assert sent == [3, 3, 1, 3, 3, 1]


@jl.on_host(Event.BATCH_END)
class Groups:
    """Writes down the steps of each group of rows that it is given."""

    rows_may_wait = True

    def __init__(self) -> None:
        self.steps: list[list[int]] = []

    def __call__(self, loop, event):
        raise AssertionError("rows come through `rows`")

    def rows(self, columns):
        self.steps.append(columns["step"].tolist())


@pytest.fixture
def groups_of(monkeypatch):
    """How many rows come at once of single steps, all of them in order, beside these callbacks."""

    def found(step_count: int, *callbacks: Any, seconds: float = math.inf) -> list[int]:
        monkeypatch.setattr(delivery, "_SECONDS_TOGETHER", seconds)
        groups = Groups()
        data = jl.TrainingEpochs(small.samples(4 * step_count), 4)
        small.training_loop(training=data, validation=None, callbacks=[*callbacks, groups]).fit(small.model(), 1)
        assert [step for steps in groups.steps for step in steps] == list(range(step_count))
        return [len(steps) for steps in groups.steps]

    return found


def test_rows_of_small_single_steps_come_as_many_at_once_as_a_dispatch_has_at_most(groups_of) -> None:
    assert groups_of(75) == [32, 32, 11]


def test_where_steps_take_longer_than_rows_may_wait_each_row_comes_alone(groups_of) -> None:
    assert groups_of(75, seconds=0.0) == [1] * 75


def test_beside_an_observer_by_row_each_row_comes_alone(groups_of) -> None:
    @jl.on_host(Event.BATCH_END)
    def observe(loop, event):
        pass

    assert groups_of(75, observe) == [1] * 75


def test_beside_an_observer_that_is_not_patient_each_row_comes_alone_and_one_dispatch_late(groups_of) -> None:
    hurried = Groups()
    hurried.rows_may_wait = False
    assert groups_of(75, hurried) == [1] * 75
    assert [len(steps) for steps in hurried.steps] == [1] * 75


def test_where_a_compiled_callback_can_cancel_each_row_comes_alone(groups_of) -> None:
    def never(loop: jl.Loop, event: Event) -> jl.Loop:
        return loop.cancel(jl.Scope.FIT, when=loop.step < 0) if event is Event.BATCH_END else loop

    assert groups_of(75, never) == [1] * 75


def test_rows_come_exactly_one_dispatch_late(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []
    from jaxloop.feeding.feed import Feed

    chunks = Feed.chunks

    def counted(self, steps, start=0):
        for index, chunk in enumerate(chunks(self, steps, start)):
            log.append(f"batch {index} fed")
            yield chunk

    monkeypatch.setattr(Feed, "chunks", counted)

    @jl.on_host(Event.BATCH_END)
    def observe(loop, event):
        log.append(f"row {int(loop.batch_index)}")

    small.training_loop(validation=None, callbacks=[observe]).fit(small.model(), 1)
    assert log == ["batch 0 fed", "batch 1 fed", "row 0", "batch 2 fed", "row 1", "row 2"]


def test_an_observer_by_row_sees_counters_and_statistics() -> None:
    seen: list[tuple[int, int, int]] = []

    @jl.on_host(Event.BATCH_END)
    def observe(loop, event):
        assert event is Event.BATCH_END
        assert np.isfinite(loop.stats["loss"])
        if loop.phase is jl.Phase.TRAINING:
            seen.append((int(loop.epoch_index), int(loop.batch_index), int(loop.step)))

    small.training_loop(callbacks=[observe], steps_per_dispatch=2).fit(small.model(), 2)
    assert seen == [(0, 0, 0), (0, 1, 1), (0, 2, 2), (1, 0, 3), (1, 1, 4), (1, 2, 5)]


def test_what_a_host_callback_returns_takes_the_loops_place() -> None:
    @jl.on_host(Event.EPOCH_END, reads="loop")
    def zero(loop, event):
        return loop.replace(model=loop.model.replace(params=jax.tree.map(np.zeros_like, loop.model.params)))

    loop, _ = small.training_loop(callbacks=[zero]).fit(small.model(), 1)
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(loop.model.params))


def test_what_a_host_callback_records_is_in_history_and_logs_of_the_same_epoch(tmp_path) -> None:
    @jl.on_host(Event.FIT_START, Event.EPOCH_END, reads="loop")
    def mark(loop, event):
        return loop.record("mark", measured.UNMEASURED if event is Event.FIT_START else float(loop.epoch))

    loggers = [
        jl.callbacks.CSVLogger(tmp_path / "log.csv"),
        jl.callbacks.TensorBoardLogger(tmp_path / "board", weight_histograms=1),
    ]
    _, history = small.training_loop(callbacks=[*loggers, mark]).fit(small.model(), 3)
    assert history.epochs["mark"].tolist() == [1, 2, 3]
    assert "mark" in (tmp_path / "log.csv").read_text().splitlines()[0].split(",")
    if importlib.util.find_spec("tensorboard") is not None:
        assert scalars(only_run(tmp_path / "board") / "train")["epoch/mark"] == {1: 1.0, 2: 2.0, 3: 3.0}


def test_host_callbacks_are_called_in_list_order_and_loggers_after_them_where_they_log() -> None:
    seen: dict[Event, list[str]] = {}

    def watching(name: str, **attributes: Any) -> Any:
        def call(self: Any, loop: Any, event: Event) -> None:
            seen.setdefault(event, []).append(name)

        made = type(name, (), {"__call__": call, **attributes})
        reads = "loop" if name in ("changing", "writing") else "stats"
        return jl.on_host(Event.FIT_START, Event.TRAINING_END, Event.EPOCH_END, Event.FIT_END, reads=reads)(made)()

    rows = {"rows": lambda self, columns: None}
    callbacks = [
        watching("logging", **rows),
        watching("looking"),
        watching("writing", logs_last=True, **rows),
        watching("guarding", logs_last=False, **rows),
        watching("changing", **rows),
    ]
    small.training_loop(callbacks=callbacks).fit(small.model(), 1)
    in_order = ["logging", "looking", "writing", "guarding", "changing"]
    logged = ["looking", "guarding", "changing", "logging", "writing"]
    assert seen == dict.fromkeys((Event.TRAINING_END, Event.FIT_END), in_order) | dict.fromkeys(
        (Event.FIT_START, Event.EPOCH_END), logged
    )


def test_a_host_callback_that_returns_something_else_is_told_so() -> None:
    @jl.on_host(Event.EPOCH_END, reads="loop")
    def wrong(loop, event):
        return 3

    with pytest.raises(TypeError, match=r"'.*wrong' at EPOCH_END.*a loop or None, got int"):
        small.training_loop(callbacks=[wrong]).fit(small.model(), 1)


def test_text_of_three_lengths_has_three_programs_announced_before_the_first_step() -> None:
    lengths = (8, 16, 32)
    random = np.random.default_rng(0)
    texts = [random.integers(1, 50, random.integers(2, 33)).astype(np.int32) for _ in range(512)]
    pairs = [(text, np.int64(text.sum() % 3)) for text in texts]
    pad = functools.partial(jl.pad_and_collate, pad_value=(0, None), lengths=lengths)
    epochs = jl.NonuniformTrainingEpochs(
        pairs, batch_size=16, size=lambda pair: len(pair[0]), collate=pad, lengths=lengths, batches_per_sort=8
    )

    def apply(params, state, tokens, *, training, key):
        return jax.nn.one_hot(tokens, 50).mean(axis=1) @ params["kernel"], state

    told: list[str] = []
    seen: list[int] = []

    @jl.on_host(Event.BATCH_END)
    class Listener:
        def __call__(self, loop, event):
            raise AssertionError("rows come through `rows`")

        def rows(self, columns):
            seen.extend(columns["step"].tolist())

        def notice(self, text, seconds):
            if text.startswith("Compiled"):
                told.append(text)
                assert not seen

    model = jl.Model(apply, {"kernel": np.zeros((50, 3), np.float32)}, {})
    changes = {"training": epochs, "validation": None, "steps_per_dispatch": "auto"}
    training_loop = small.training_loop(**changes, callbacks=[Listener()])
    with counted_compiles() as counts:
        _, history = training_loop.fit(model, 3)
    assert steps_in(counts) == {"jit(training_step)": 3}
    assert [text.split(" in ")[0] for text in told] == [
        f"Compiled training_step for int32[16, {length}], int32[16]" for length in lengths
    ]
    assert seen == list(range(3 * 32))
    assert {batch[0].shape[1] for batch in epochs[0]} == set(lengths)
    with counted_compiles() as counts:
        training_loop.fit(model, 2)
    assert counts == {}
    assert np.isfinite(history.epochs["loss"]).all()
