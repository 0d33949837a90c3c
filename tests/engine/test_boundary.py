"""Boundaries: what a look from outside sees between two dispatches, and that a phase goes on from each."""

from typing import Any

import jax
import numpy as np
import pytest

import jaxloop as jl
from jaxloop import Event
from jaxloop.engine.dispatch import dispatched
from jaxloop.engine.place import Place
from jaxloop.engine.run import Run
from jaxloop.engine.stepwise import taken_apart
from jaxloop.events import TRAINING, VALIDATION, Split
from jaxloop.ownership import own_copy
from tests import small

BATCHES = 7


@jl.on_host(Event.UPDATE_START, reads="step")
def cuts(loop, event):
    pass


def run_of(callbacks: list[Any], steps: int) -> Run:
    """A run over seven training batches with dropout of the input, a statistic of its own and an average."""

    def noise(loop, event):
        if event is not Event.BATCH_START:
            return loop
        kept = jax.random.bernoulli(loop.step_key("noise"), 0.8, loop.input.shape)
        return loop.replace(input=loop.input * kept).record("kept", kept.mean())

    training_loop = small.training_loop(
        training=jl.TrainingEpochs(small.samples(4 * BATCHES), 4),
        validation=jl.in_batches(small.samples(4 * BATCHES - 1), 4),
        callbacks=[noise, jl.callbacks.ema(0.9)],
        steps_per_dispatch=steps,
    )
    setup = training_loop.setup
    session = setup.fit(small.model(), 1, callbacks=callbacks)
    host = type(setup.run(session).host)(tuple(callbacks), session.placement)
    return setup.run(session, host)


class Rows:
    """An observer that writes down the rows it is given."""

    host_declaration = jl.on_host(Event.BATCH_END)(lambda loop, event: None).host_declaration
    rows_may_wait = True

    def __init__(self) -> None:
        self.losses: list[float] = []

    def __call__(self, loop, event):
        raise AssertionError("it is given rows")

    def rows(self, columns):
        self.losses += columns["kept"].tolist()


def phase_of(run: Run, split: Split) -> tuple[jl.Loop, Any]:
    """The loop and the steps at the start of a phase."""
    return next((loop, steps) for found, loop, steps in run.walk() if found == split)


def driver(run: Run, split: Split) -> Any:
    return taken_apart if run.host.cuts(split.phase) else dispatched


def nothing(program: Any, what: str) -> None:
    pass


@pytest.mark.parametrize("split", [TRAINING, VALIDATION], ids=lambda split: split.name)
@pytest.mark.parametrize(("callbacks", "steps"), [([], 1), ([], 3), ([cuts], 1)], ids=["one", "three", "apart"])
def test_a_phase_goes_on_from_any_boundary_as_if_it_had_not_been_left(callbacks, steps, split) -> None:
    rows = Rows()
    run = run_of([*callbacks, rows], steps)
    loop, of_phase = phase_of(run, split)
    start = own_copy(loop, run.session.placement)
    whole = run.phase(own_copy(start, run.session.placement).replace(phase=None), split, of_phase.feed)
    expected, rows.losses = rows.losses, []

    boundaries = driver(run, split)(of_phase, run.host, run.progress, nothing, own_copy(start, run.session.placement))
    seen = []
    for boundary in boundaries:
        kept = own_copy(boundary.loop(), run.session.placement)
        in_flight = [row.copy() for row in boundary.rows_in_flight()]
        seen.append((boundary.position, kept, len(rows.losses), in_flight))
    assert [position for position, *_ in seen] == [*range(0, BATCHES, steps), BATCHES]
    assert rows.losses == expected

    column = of_phase.layout.names.index("kept")
    for position, kept, told, in_flight in seen:
        assert int(kept.batch_index) == position
        assert told + len(in_flight) == position  # each row was told, or is in flight
        flying = [float(row[column : column + 1].view(np.float32)[0]) for row in in_flight]
        rows.losses = []
        place = Place(split, position, in_flight, names=of_phase.layout.names, fused={split: steps})
        after = run.phase(kept, split, of_phase.feed, place)
        small.assert_trees_equal(after, whole)
        assert rows.losses[: len(flying)] == flying  # they are told first
        assert expected[:told] + rows.losses == expected


@pytest.mark.parametrize("split", [TRAINING, VALIDATION], ids=lambda split: split.name)
def test_the_key_lies_on_the_devices_of_the_run_before_the_first_step_too(split) -> None:
    """Else one of several devices, or the default one, would have it, and a save has all arrays on the same devices."""
    run = run_of([], 1)
    loop, of_phase = phase_of(run, split)
    boundary = next(dispatched(of_phase, run.host, run.progress, nothing, loop))
    assert jax.random.key_data(boundary.loop().key).committed


@pytest.mark.parametrize(("callbacks", "steps"), [([], 1), ([], 2), ([cuts], 1)], ids=["one", "two", "apart"])
def test_an_interrupt_is_seen_at_the_next_boundary_whoever_drives(callbacks, steps) -> None:
    run = run_of(callbacks, steps)
    seen: list[int] = []

    @jl.on_host(Event.BATCH_END)
    def observe(loop, event):
        seen.append(int(loop.batch_index))
        run.progress.interrupts.interrupted = run.progress.interrupts.pending = True

    run = run.session and Run(run.session, run.progress, type(run.host)((*callbacks, observe), run.session.placement))
    with pytest.raises(KeyboardInterrupt):
        run.fit()
    assert seen == list(range(len(seen)))
    assert 1 <= len(seen) <= 2 * steps  # those that were sent by then are told
