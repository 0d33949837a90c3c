"""The options of checkpoints: what is taken, and what is refused with its fix."""

from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

import jaxloop as jl
from jaxloop.callbacks.checkpoint import checkpoints_among


def test_every_takes_an_epoch_a_number_of_steps_or_a_time() -> None:
    for every in ("epoch", 100, timedelta(minutes=10)):
        assert jl.callbacks.Checkpoint("run/checkpoints", every=every).every == every
    assert type(jl.callbacks.Checkpoint("run/checkpoints", every=np.int64(7)).every) is int


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"every": 0}, ValueError, r"`every` must be a whole number of at least 1, got 0"),
        ({"every": True}, ValueError, r"`every` must be a whole number"),
        ({"every": 2.5}, TypeError, r"'epoch', a number of training steps or a timedelta, got 2.5"),
        ({"every": "epochs"}, TypeError, r"got 'epochs'. For minutes write datetime.timedelta\(minutes=10\)"),
        ({"every": timedelta(0)}, ValueError, r"longer than nothing"),
        ({"keep": 0}, ValueError, r"`keep` must be a whole number of at least 1, got 0"),
        ({"best": "score"}, ValueError, r"Give best=\('score', 'min'\) or best=\('score', 'max'\)"),
        ({"best": ("score", "up")}, TypeError, r"`best` must be the name of a statistic"),
        ({"best": 3}, TypeError, r"`best` must be the name of a statistic"),
        ({"directory": "gs://bucket/run"}, ValueError, r"Mount the bucket"),
    ],
)
def test_an_option_that_cannot_be_is_refused_with_its_fix(options, error, message) -> None:
    with pytest.raises(error, match=message):
        jl.callbacks.Checkpoint(**({"directory": "run/checkpoints"} | options))


def test_the_direction_of_the_best_is_found_in_its_name() -> None:
    def direction(best):
        return jl.callbacks.Checkpoint("run", best=best).best

    assert direction("validation_loss") == ("validation_loss", "min")
    assert direction("validation_accuracy") == ("validation_accuracy", "max")
    assert direction(("score", "max")) == ("score", "max")
    assert direction(None) is None


def test_a_misspelled_attribute_is_an_error() -> None:
    with pytest.raises(AttributeError):
        jl.callbacks.Checkpoint("run").evry = 3


def test_it_is_found_among_host_callbacks_and_shows_its_options() -> None:
    checkpoint = jl.callbacks.Checkpoint(Path("run"), every=5, best="loss")
    assert checkpoints_among([jl.callbacks.CSVLogger("log.csv"), checkpoint]) == [checkpoint]
    assert repr(checkpoint) == "Checkpoint('run', every=5, keep=2, best=('loss', 'min'))"
