"""How many classes an output has, from its shape and the target's."""

import jax
import numpy as np
import pytest

from jaxloop.metrics.labels import check_classes, class_count


@pytest.mark.parametrize(
    ("output", "target", "count"),
    [
        ((8,), (8,), None),
        ((8, 1), (8,), None),
        ((8, 1), (8, 1), None),
        ((8, 5, 1), (8, 5), None),
        ((8, 2), (8,), 2),
        ((8, 10), (8, 10), 10),
        ((8, 5, 7), (8, 5), 7),
    ],
)
def test_classes_are_the_last_axis_unless_there_is_one_logit(output, target, count):
    shapes = (jax.ShapeDtypeStruct(output, np.float32), jax.ShapeDtypeStruct(target, np.int32))
    assert class_count("accuracy", *shapes) == count


def test_a_number_of_classes_is_whole():
    for classes in (1, 2.0, True):
        with pytest.raises(ValueError, match="F1: `classes` must be at least 2, or None for one logit"):
            check_classes("F1", classes)
    check_classes("F1", np.int64(2))
