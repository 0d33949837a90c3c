"""An epoch's batches that are entered in their midst; see also `test_going_on.py`."""

import json
from typing import Any

import numpy as np
import pytest

from jaxloop.data import in_batches, repeat
from jaxloop.data.repeat import one_epoch
from jaxloop.errors import StateMismatchError
from jaxloop.feeding.peekable import Peekable

SAMPLES = np.arange(10, dtype=np.float32), np.arange(10)


@pytest.mark.parametrize(
    "batches",
    [list(in_batches(SAMPLES, 2)), in_batches(SAMPLES, 2), in_batches(SAMPLES, 2, size=lambda pair: float(pair[0]))],
    ids=["list", "batches", "sorted"],
)
def test_batches_that_can_be_looked_up_need_no_watching(batches: Any) -> None:
    before, after = Peekable(batches), Peekable(batches)
    before.watched()
    mark = json.loads(json.dumps(before.mark(3)))
    assert mark["kind"] == "position"
    after.pass_over(mark)
    after.put_back(3, mark, lambda text: None)
    assert [batch[1].tolist() for batch in after.begun_at(3)] == [batch[1].tolist() for batch in batches][3:]


def test_other_samples_of_validation_are_refused() -> None:
    mark = Peekable(in_batches(SAMPLES, 2)).mark(0)
    with pytest.raises(StateMismatchError, match="validation: the checkpoint's run had other samples"):
        Peekable(in_batches((SAMPLES[0] + 1, SAMPLES[1]), 2)).put_back(0, mark, lambda text: None)


def test_validation_by_a_loader_is_read_again_time_by_time() -> None:
    def generated() -> Peekable:
        batches = Peekable(one_epoch(repeat((batch for _ in range(9) for batch in [1, 2, 3]), batch_count=4), ""))
        batches.peek()
        batches.close()
        batches.watched()
        return batches

    before, after, told = generated(), generated(), []
    assert list(before.begun_at(0)) == [1, 2, 3, 1]
    rest = before.begun_at(0)
    assert [next(rest), next(rest)] == [2, 3]
    mark = json.loads(json.dumps(before.mark(2)))
    after.pass_over(mark)
    after.pass_over(mark)  # it was read once to its end, and no more
    after.put_back(2, mark, told.append)
    assert list(after.begun_at(2)) == list(rest) == [1, 2]
    assert [text[:35] for text in told] == ["Reads 2 batches of validation again"]
