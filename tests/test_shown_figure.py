"""Figures show themselves in a notebook, without pyplot."""

import pickle

import numpy as np
import pytest

import jaxloop as jl
from jaxloop.history import History
from jaxloop.learning_rate_finder import LearningRateTest

pytest.importorskip("matplotlib")


def figures():
    epochs = {"epoch": np.array([1, 2]), "loss": np.array([2.0, 1.0]), "validation_loss": np.array([2.0, 1.5])}
    rates = np.array([1e-3, 1e-2, 1e-1])
    return {
        "history": History(epochs, {}, "completed").plot(),
        "schedule": jl.make_schedule([jl.ScheduleSegment(jl.shapes.linear, end_rate=1.0)]).plot(10),
        "range test": LearningRateTest(rates, rates, rates, 0.01).plot(),
    }


@pytest.mark.parametrize("name", ["history", "schedule", "range test"])
def test_a_figure_gives_itself_as_a_png(name):
    picture = figures()[name]._repr_png_()
    assert picture.startswith(b"\x89PNG\r\n")
    assert len(picture) > 5000


def test_ipython_shows_a_figure_without_pyplot():
    formatters = pytest.importorskip("IPython.core.formatters")
    data, _ = formatters.DisplayFormatter().format(figures()["history"])
    assert data["image/png"].startswith(b"\x89PNG")


def test_a_figure_can_be_pickled():
    figure = pickle.loads(pickle.dumps(figures()["history"]))
    assert figure._repr_png_().startswith(b"\x89PNG")
