"""A session is constant; what changes is its progress."""

import dataclasses

import pytest

from tests import small


def test_a_session_can_be_run_again_and_gives_the_same() -> None:
    setup = small.training_loop().setup
    loops = [setup.run(setup.fit(small.model(), 2)).fit() for _ in range(2)]
    small.assert_trees_equal(*loops)


def test_nothing_of_a_session_is_written_to_while_it_runs() -> None:
    setup = small.training_loop(steps_per_dispatch=2).setup
    session = setup.fit(small.model(), 1)
    before = {field.name: getattr(session, field.name) for field in dataclasses.fields(session)}
    run = setup.run(session)
    run.fit()
    assert all(getattr(session, name) is value for name, value in before.items())
    assert set(run.progress.compile_seconds) == {"training_step x2", "training_step", "validation_step x2"}
    with pytest.raises(dataclasses.FrozenInstanceError):
        session.plan = None


def test_each_run_has_a_progress_of_its_own() -> None:
    setup = small.training_loop().setup
    session = setup.fit(small.model(), 1)
    one, other = setup.run(session), setup.run(session)
    one.progress.ledger.lap("setup")
    assert one.progress is not other.progress
    assert "setup" not in other.progress.ledger.seconds
