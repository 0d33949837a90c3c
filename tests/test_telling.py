"""Warnings of what went wrong beside the training."""

import io
import warnings

import pytest

from jaxloop.telling import warn


def test_a_warning_is_seen_where_the_caller_stands():
    with pytest.warns(RuntimeWarning, match="the disk is full") as caught:
        warn("the disk is full")
    assert caught[0].filename == __file__


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
