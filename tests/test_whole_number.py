"""A whole number of at least 1."""

import numpy as np
import pytest

from jaxloop.whole_number import whole_number


@pytest.mark.parametrize("value", [1, 7, np.int32(7), np.uint8(1)])
def test_a_whole_number_is_given_back_as_an_int(value) -> None:
    found = whole_number("Saver: `count`", value)
    assert (type(found), found) == (int, value)


@pytest.mark.parametrize("value", [0, -1, True, 1.0, "3", None, np.float32(2), np.int64(0)])
def test_anything_else_is_refused_by_the_name_of_the_argument(value) -> None:
    with pytest.raises(ValueError, match=r"^Saver: `count` must be a whole number of at least 1, got "):
        whole_number("Saver: `count`", value)
