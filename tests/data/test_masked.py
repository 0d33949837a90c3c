"""Masked arrays, wherever data come in."""

import numpy as np
import pytest

from jaxloop.data import TrainingEpochs, collate, in_batches, pad_and_collate
from jaxloop.data.arrays import as_inputs
from jaxloop.data.masked import plain_array

WHOLE = np.arange(6, dtype=np.float32).reshape(2, 3)
MASKED = np.ma.masked_equal(WHOLE, 4)


def test_an_array_in_which_nothing_is_masked_is_taken_as_it_is() -> None:
    plain = plain_array("training", np.ma.masked_array(WHOLE, mask=False))
    assert type(plain) is np.ndarray
    assert np.shares_memory(plain, WHOLE)
    assert plain_array("training", WHOLE) is WHOLE


@pytest.mark.parametrize(
    "take",
    [
        lambda: in_batches((MASKED, WHOLE), 2),
        lambda: TrainingEpochs({"image": MASKED}, 2),
        lambda: as_inputs(MASKED, None),
        lambda: collate(list(MASKED)),
        lambda: pad_and_collate([(row, 1) for row in MASKED], pad_value=(0, None)),
    ],
)
def test_a_mask_is_refused_with_the_line_to_write(take) -> None:
    with pytest.raises(ValueError, match=r": a masked array, of float32\[(2, )?3\], has 1 masked value, .*filled\(0\)"):
        take()
