"""The first loss that is not finite."""

import math
from collections.abc import Callable

import pytest

from jaxloop.console.diverged import diverged_in
from jaxloop.events import Phase
from jaxloop.measured import UNMEASURED
from jaxloop.views import Columns

NAN = float("nan")


@pytest.mark.parametrize(
    ("losses", "batch"),
    [
        ([1.0, 2.0], None),
        ([1.0, float(UNMEASURED)], None),
        ([NAN], 4),
        ([1.0, math.inf, NAN], 5),
        ([1.0, 2.0, NAN, NAN], 6),
    ],
)
def test_the_first_row_is_found_and_what_was_not_measured_is_no_divergence(
    columns: Callable[..., Columns], losses: list[float], batch: int | None
) -> None:
    found = diverged_in(columns(epoch=3, batch_index=3, loss=losses))
    assert (None if found is None else found.batch) == batch


def test_the_line_says_statistic_place_and_what_to_do(columns: Callable[..., Columns]) -> None:
    found = diverged_in(columns(Phase.VALIDATION, validation_loss=[1.0, NAN]))
    assert str(found).startswith("The validation_loss is nan from epoch 1, batch 2 on: the run has diverged")
    assert "stop_on_non_finite()" in str(found)


def test_rows_without_a_loss_have_not_diverged(columns: Callable[..., Columns]) -> None:
    assert diverged_in(columns(mine=[NAN])) is None
