"""An epoch's batches that are entered in their midst."""

import numpy as np

from jaxloop.feeding.peekable import Peekable


def test_batches_that_can_be_looked_up_need_no_watching() -> None:
    batches = Peekable([np.zeros(2), np.ones(2)])
    batches.watched()
    mark = batches.mark(1)
    assert mark["kind"] == "position"
    batches.put_back(1, mark, lambda text: None)
    assert [batch.tolist() for batch in batches.begun_at(1)] == [[1, 1]]
