"""Warnings of what went wrong beside the training."""

import io
import warnings

import pytest

from jaxloop.telling import warn
from tests import small


def test_a_warning_is_seen_where_the_caller_stands():
    with pytest.warns(RuntimeWarning, match="the disk is full") as caught:
        warn("the disk is full")
    assert caught[0].filename == __file__


def lengths(loop, event):
    """A callback that asks for the number of steps, which epochs that come one by one do not tell."""
    return loop


lengths.bind = lambda plan: lengths


@pytest.mark.parametrize(
    ("fit", "message"),
    [
        (lambda folder: small.training_loop().fit(small.model(), 1, resume_from=folder / "none"), "no checkpoint"),
        (
            lambda folder: small.training_loop(
                training=[[small.samples(4), small.samples(3)]], on_recompile="warn", steps_per_dispatch=1
            ).fit(small.model(), 1),
            "every batch must be like the first",
        ),
        (
            lambda folder: small.training_loop(
                training=iter([[small.samples(4)], [small.samples(4)] * 2]), callbacks=[lengths]
            ).fit(small.model(), 2),
            "an epoch has 2 batches",
        ),
        (
            lambda folder: small.training_loop(loss_fn=lambda output, target: output.argmax() * 1.0).fit(
                small.model(), 1
            ),
            "the gradient of every parameter is 0",  # told while JAX traces
        ),
    ],
)
def test_a_warning_of_a_fit_points_to_the_line_of_the_user(fit, message, tmp_path):
    with pytest.warns(Warning, match=message) as caught:
        fit(tmp_path)
    assert [each.filename for each in caught] == [__file__]


def test_where_warnings_are_errors_it_is_one():
    with pytest.raises(RuntimeWarning, match="the disk is full"):
        warn("the disk is full")


def test_it_is_lost_where_standard_error_cannot_be_written(monkeypatch):
    stream = io.StringIO()
    stream.close()

    def show(message, *_):
        stream.write(str(message))

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        monkeypatch.setattr(warnings, "showwarning", show)
        warn("the disk is full")
