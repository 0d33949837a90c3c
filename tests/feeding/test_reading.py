"""Reading: batches taken apart, and where one was that went wrong. More of it is in `test_to_the_end`."""

import numpy as np
import pytest

from jaxloop.feeding.reading import Position, Reader, check_ended, noting
from jaxloop.feeding.source import Peekable


@pytest.mark.parametrize(
    ("batch", "options", "expected"),
    [
        ((1, 2), {}, (1, 2, None)),
        ([1, 2], {}, (1, 2, None)),
        ((1, 2, 3), {}, (1, 2, 3)),
        ({"image": 1, "label": 2}, {"batch_keys": ("image", "label")}, (1, 2, None)),
        (1, {"inputs_alone": True}, (1, None, None)),
        ((1, 2), {"whole": True}, ((1, 2), None, None)),
    ],
)
def test_a_batch_is_taken_apart_as_it_was_said(batch, options, expected):
    assert Reader("training", **options).parts(batch) == expected


@pytest.mark.parametrize(
    ("index", "place"), [(0, "batch 1 of 3 (counted from 1)"), (2, "batch 3 of 3"), (3, "after all 3 batches")]
)
def test_what_is_raised_says_which_batch_was_being_read(index, place):
    with pytest.raises(KeyError) as caught, noting("training", 3, Position(index)):
        raise KeyError("mine")
    assert f"jaxloop: while it read training, {place}" in caught.value.__notes__[0]


def test_batches_of_ours_and_those_that_were_cut_are_not_asked_for_more():
    asked = iter(lambda: pytest.fail("asked"), None)
    check_ended(Peekable([np.zeros(1)] * 3, 2), asked, "training", Position(2))
    with pytest.raises(ValueError, match="training: it went on after the 3 batches"):
        check_ended(Peekable([np.zeros(1)] * 3), iter([1]), "training", Position(3))
    with pytest.raises(ValueError, match="training: it ended after 2 of the 3 batches"):
        check_ended(Peekable([np.zeros(1)] * 3), iter([]), "training", Position(2))
