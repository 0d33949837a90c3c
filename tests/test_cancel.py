"""Cancelling: every cell of the table, from both kinds of callback, stepwise and fused."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxloop as jl
from jaxloop import Event, Phase, Scope
from tests import small

TRAINING_BATCHES, VALIDATION_BATCHES = 6, 3
AT_BATCH = 2
TRAIN_STEP = [Event.BATCH_START, Event.UPDATE_START, Event.BATCH_END]
EVAL_STEP = [Event.BATCH_START, Event.INFERENCE_PREDICTION_END, Event.BATCH_END]
SCOPES = list(Scope)


def data() -> tuple[jl.TrainingEpochs, jl.Batches]:
    training = jl.TrainingEpochs(small.samples(4 * TRAINING_BATCHES), 4, seed=3)
    return training, jl.in_batches(small.samples(4 * VALIDATION_BATCHES, seed=1), 4)


class Cell(NamedTuple):
    """A cell of the table: where what is cancelled, once, in the first epoch at the third batch of the phase."""

    phase: Phase
    at: Event
    scope: Scope


CELLS = [
    Cell(phase, event, scope)
    for phase, step in [(Phase.TRAINING, TRAIN_STEP), (Phase.VALIDATION, EVAL_STEP)]
    for event in step
    for scope in SCOPES
]


def cancels_by_memory(loop: jl.Loop, event: Event) -> jl.Loop:
    """A compiled callback that cancels the cell whose number it remembers: one program for the whole table."""
    loop = loop.remember("cell", -1, lasting=True)
    for number, cell in enumerate(CELLS):
        if event is cell.at and loop.phase is cell.phase:
            here = (loop.epoch_index == 0) & (loop.batch_index == AT_BATCH)
            loop = loop.cancel(cell.scope, when=here & (loop.callback_state["cell"] == number))
    return loop


class Experiment:
    """A training loop whose callbacks cancel the cell that is asked for; compiled once for many cells."""

    def __init__(self, kind: str, steps_per_dispatch: int, at: Event):
        self.cell: Cell | None = None
        self.rows: list[tuple[Phase, int, int]] = []
        training, validation = data()
        self.kind = kind
        self.training_loop = small.training_loop(
            training=training,
            validation=validation,
            callbacks=[cancels_by_memory if kind == "compiled" else self.on_host(at), small.traced(), self.observer()],
            steps_per_dispatch=steps_per_dispatch,
        )

    def on_host(self, at: Event):
        @jl.on_host(at, reads="step")
        def cancel(loop, event):
            assert self.cell is not None
            here = (int(loop.epoch_index), int(loop.batch_index)) == (0, AT_BATCH)
            loop.cancel(self.cell.scope, when=here and loop.phase is self.cell.phase)

        return cancel

    def observer(self):
        experiment = self

        @jl.on_host(Event.BATCH_END)
        class Rows:
            def __call__(self, loop, event):
                raise AssertionError("rows come through `rows`")

            def rows(self, columns):
                pairs = zip(columns["epoch_index"].tolist(), columns["batch_index"].tolist(), strict=True)
                experiment.rows.extend((columns.phase, epoch, batch) for epoch, batch in pairs)

        return Rows()

    def run(self, cell: Cell) -> tuple[jl.Loop, jl.History]:
        self.cell, self.rows = cell, []
        if self.kind == "host":
            return self.training_loop.fit(small.model(), 2)
        loop = self.training_loop.start(small.model(), epochs=2)
        number = jnp.int32(CELLS.index(cell))
        return self.training_loop.fit(loop.replace(callback_state=loop.callback_state | {"cell": number}), 2)


@functools.cache
def experiment(kind: str, steps_per_dispatch: int, at: Event | None) -> Experiment:
    return Experiment(kind, steps_per_dispatch, at or Event.BATCH_END)


def cut_step(step: list[Event], at: Event) -> list[Event]:
    """The events of a step that is cancelled at `at`: nothing in between, but BATCH_END."""
    before = step[: step.index(at) + 1]
    return before if at is Event.BATCH_END else [*before, Event.BATCH_END]


def expected(phase: Phase, at: Event, scope: Scope) -> tuple[list[Event], list[tuple[Phase, int, int]]]:
    """The events of two epochs, and the rows (phase, epoch, batch), straight from the table."""
    events, rows = [Event.FIT_START], []
    fit_over = False
    for epoch in range(2):
        if fit_over:
            break
        events.append(Event.EPOCH_START)
        epoch_over = no_validation_steps = False
        for this, count, step in [
            (Phase.TRAINING, TRAINING_BATCHES, TRAIN_STEP),
            (Phase.VALIDATION, VALIDATION_BATCHES, EVAL_STEP),
        ]:
            if epoch_over:
                break
            events.append(this.start)
            for batch in range(0 if no_validation_steps else count):
                hit = epoch == 0 and this is phase and batch == AT_BATCH
                kept = hit and scope in (Scope.TRAINING, Scope.VALIDATION) and scope is not this.scope
                if not hit or kept or (scope is Scope.BATCH and at is Event.BATCH_END):
                    events.extend(step)
                    rows.append((this, epoch, batch))
                    no_validation_steps |= kept and scope is Scope.VALIDATION
                    continue
                events.extend(cut_step(step, at))
                if at is Event.BATCH_END:
                    rows.append((this, epoch, batch))
                if scope is not Scope.BATCH:
                    epoch_over |= scope in (Scope.EPOCH, Scope.FIT)
                    fit_over |= scope is Scope.FIT
                    break
            events.append(this.end)
        events.append(Event.EPOCH_END)
    return [*events, Event.FIT_END], rows


def trained_by_hand(rows: list[tuple[Phase, int, int]]) -> tuple[dict, list[list[float]]]:
    """Parameters, and the losses of each epoch's batches, of a plain loop over the batches that counted."""
    training, _ = data()
    optimizer = optax.sgd(0.1)
    params = small.model().params
    opt_state = optimizer.init(params)
    losses: list[list[float]] = [[], []]

    @jax.jit
    def step(params, opt_state, input, target):
        def loss_fn(params):
            logits = input @ params["kernel"] + params["bias"]
            return optax.softmax_cross_entropy_with_integer_labels(logits, target).mean()

        loss, gradient = jax.value_and_grad(loss_fn)(params)
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, loss

    for phase, epoch, batch in rows:
        if phase is Phase.TRAINING:
            params, opt_state, loss = step(params, opt_state, *training[epoch][batch])
            losses[epoch].append(float(loss))
    return params, losses


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: "-".join(part.name for part in cell))
@pytest.mark.parametrize("steps_per_dispatch", [1, 4])
@pytest.mark.parametrize("kind", ["compiled", "host"])
def test_every_cell_of_the_table(kind: str, steps_per_dispatch: int, cell: Cell) -> None:
    phase, at, scope = cell
    trial = experiment(kind, steps_per_dispatch, at if kind == "host" else None)
    loop, history = trial.run(cell)

    expected_trace, expected_rows = expected(phase, at, scope)
    params, losses = trained_by_hand(expected_rows)
    first_epoch = [batch for this, epoch, batch in expected_rows if this is Phase.TRAINING and epoch == 0]
    cut = phase is Phase.TRAINING and at is not Event.BATCH_END and scope is not Scope.VALIDATION
    assert small.trace_of(loop) == expected_trace
    assert trial.rows == expected_rows
    assert int(loop.step) == sum(this is Phase.TRAINING for this, _, _ in expected_rows) + cut
    assert int(loop.model.state["passes"]) == sum(this is Phase.TRAINING for this, _, _ in expected_rows)
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-5), loop.model.params, params)
    np.testing.assert_allclose(history.epochs["loss"][0], np.mean(losses[0]), rtol=1e-5)
    assert len(losses[0]) == len(first_epoch)
    assert history.stopped == ("cancelled" if scope is Scope.FIT else "completed")
    assert int(loop.stop) == 0


def test_the_steps_already_sent_count_after_an_observers_cancel() -> None:
    @jl.on_host(Event.BATCH_END)
    def enough(loop, event):
        loop.cancel(Scope.FIT, when=int(loop.batch_index) == 1)

    training, _ = data()
    training_loop = small.training_loop(training=training, validation=None, callbacks=[enough], steps_per_dispatch=2)
    loop, history = training_loop.fit(small.model(), 2)
    assert int(loop.step) == 4  # two dispatches of two: the second was sent when the first was read
    assert history.batches["step"].tolist() == [1, 2, 3, 4]
    assert history.stopped == "cancelled"


@pytest.mark.parametrize("kind", ["compiled", "host"])
@pytest.mark.parametrize(
    ("at", "scope", "events"),
    [
        (Event.FIT_START, Scope.FIT, [Event.FIT_START, Event.FIT_END]),
        (
            Event.FIT_START,  # the first epoch
            Scope.EPOCH,
            [Event.FIT_START, Event.EPOCH_START, Event.EPOCH_END, Event.FIT_END],
        ),
        (
            Event.EPOCH_START,
            Scope.EPOCH,
            [Event.FIT_START, Event.EPOCH_START, Event.EPOCH_END, Event.FIT_END],
        ),
        (
            Event.TRAINING_START,
            Scope.FIT,
            [
                *(Event.FIT_START, Event.EPOCH_START, Event.TRAINING_START, Event.TRAINING_END),
                *(Event.EPOCH_END, Event.FIT_END),
            ],
        ),
        (
            Event.EPOCH_START,
            Scope.TRAINING,
            [
                *(Event.FIT_START, Event.EPOCH_START, Event.TRAINING_START, Event.TRAINING_END),
                *(Event.VALIDATION_START, *EVAL_STEP * VALIDATION_BATCHES, Event.VALIDATION_END),
                *(Event.EPOCH_END, Event.FIT_END),
            ],
        ),
    ],
)
def test_a_cancel_between_steps_skips_what_is_inside_and_sends_every_open_end(
    kind: str, at: Event, scope: Scope, events: list[Event]
) -> None:
    def compiled(loop, event):
        return loop.cancel(scope) if event is at else loop

    @jl.on_host(at)
    def host(loop, event):
        loop.cancel(scope)

    training, validation = data()
    loop, _ = small.training_loop(
        training=training,
        validation=validation,
        callbacks=[compiled if kind == "compiled" else host, small.traced()],
    ).fit(small.model(), 1)
    assert small.trace_of(loop) == events


def test_an_epoch_cancelled_as_a_fit_begins_leaves_the_other_epochs() -> None:
    callback = small.at(Event.FIT_START, lambda loop: loop.cancel(Scope.EPOCH))
    _, history = small.training_loop(callbacks=[callback]).fit(small.model(), 3)
    assert np.isnan(history.epochs["validation_loss"]).tolist() == [True, False, False]
    assert history.batches["epoch"].tolist() == [2, 2, 2, 3, 3, 3]


@pytest.mark.parametrize("at", [Event.FIT_START, Event.TRAINING_START, Event.EPOCH_END])
def test_a_batch_cancelled_where_none_is_open_cancels_nothing(at: Event) -> None:
    def callback(loop, event):
        return loop.cancel(Scope.BATCH) if event is at else loop

    loop, history = small.training_loop(callbacks=[callback]).fit(small.model(), 2)
    assert int(loop.step) == len(history.batches["loss"]) == 6


def test_what_callbacks_wrote_in_a_cancelled_step_stays() -> None:
    def callback(loop, event):
        loop = loop.remember("cancelled", 0)
        if event is Event.BATCH_START and loop.phase is Phase.TRAINING:
            skip = loop.batch_index == 1
            count = loop.callback_state["cancelled"] + skip.astype(jnp.int32)
            return loop.replace(callback_state={"cancelled": count}).cancel(Scope.BATCH, when=skip)
        return loop

    loop, _ = small.training_loop(callbacks=[callback]).fit(small.model(), 3)
    assert int(loop.callback_state["cancelled"]) == 3


def test_the_next_fit_begins_with_nothing_cancelled() -> None:
    def callback(loop, event):
        return loop.cancel(Scope.FIT, when=loop.batch_index == 1) if event is Event.BATCH_END else loop

    training_loop = small.training_loop(callbacks=[callback])
    loop, history = training_loop.fit(small.model(), 2)
    assert (int(loop.step), history.stopped) == (2, "cancelled")
    loop, history = training_loop.fit(loop, 2)
    assert (int(loop.step), int(loop.epoch), history.stopped) == (4, 2, "cancelled")


def test_a_program_whose_callbacks_cannot_cancel_holds_no_trace_of_cancelling() -> None:
    def jaxpr_of(callbacks):
        training_loop = small.training_loop(callbacks=callbacks)
        loop = training_loop.begin_epoch(training_loop.start(small.model(), epochs=1))
        return str(jax.make_jaxpr(training_loop.train_step)(loop, data()[0][0][0]))

    def noop(loop, event):
        return loop

    def cancels(loop, event):
        return loop.cancel(Scope.FIT, when=loop.step > 5) if event is Event.BATCH_END else loop

    assert "select_n" in jaxpr_of([cancels])
    assert jaxpr_of([noop]).count("select_n") == jaxpr_of([]).count("select_n")
    assert jaxpr_of([cancels]).count("select_n") > jaxpr_of([]).count("select_n")
