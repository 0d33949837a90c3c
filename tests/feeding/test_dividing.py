"""Dividing: the rows of each process, batches that cannot be divided, and what is sent."""

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxloop.feeding.contract import contract_of
from jaxloop.feeding.dividing import Sender, Share, check_divides, divided, share_of, spans_processes
from jaxloop.feeding.slots import ChunkSpec
from jaxloop.feeding.specification import specification
from jaxloop.placement import resolve

ONE = resolve(None)


def batch_of(rows: int) -> Any:
    return np.zeros((rows, 2), np.float32), np.zeros(rows, np.int32), None


def over(parts: int, devices: int | None = None) -> Any:
    """As much of a placement over several devices as is asked here."""
    return SimpleNamespace(single=False, parts=parts, mesh=SimpleNamespace(size=devices or parts))


def test_the_rows_of_neighbouring_parts_are_one_range():
    assert Share(8, (4, 5, 6, 7)).rows(16) == slice(8, 16)
    assert Share(2, (0,)).rows(6) == slice(0, 3)


def test_the_rows_of_parts_that_lie_apart_are_told_one_by_one():
    assert Share(4, (0, 2)).rows(8).tolist() == [0, 1, 4, 5]  # type: ignore[union-attr]


def test_a_row_has_its_place_among_those_of_the_process():
    share = Share(4, (1, 3))
    assert [share.place(row, 8) for row in (2, 3, 6, 7)] == [0, 1, 2, 3]


def test_shares_make_a_batch():
    assert Share(8, (0, 1)).shares == 4


def test_one_process_has_no_share():
    assert share_of(ONE) is None


def test_on_one_device_a_contract_stays_as_it_is():
    contract = contract_of(batch_of(3), "training")
    assert divided(contract, ONE, shared=False) is contract


def test_a_batch_that_is_filled_up_is_filled_to_what_divides():
    contract = divided(contract_of(batch_of(10), "validation", short="filled"), over(8), shared=False)
    assert (contract.ready.batch_size, contract.first.batch_size, contract.batch_size) == (16, 10, 10)
    assert contract.fitted(batch_of(3))[1] is contract.ready
    assert contract.fitted(batch_of(12))[1] is contract.ready  # a larger one is taken as on one device
    assert contract.fitted(batch_of(17))[1].batch_size == 24


@pytest.mark.parametrize(
    ("rows", "placement", "message"),
    [
        (12, over(8), "over 8 devices: 12 = 8 x 1 \\+ 4; give a batch size of 8 or 16."),
        (3, over(4, 8), "over the 4 parts of the mesh: 3 = 4 x 0 \\+ 3; give a batch size of 4."),
    ],
)
def test_a_batch_that_does_not_divide_is_refused_with_the_sum(rows, placement, message):
    with pytest.raises(ValueError, match=f"training: a batch of {rows} examples does not divide {message}"):
        divided(contract_of(batch_of(rows), "training"), placement, shared=False)


def test_arrays_without_a_common_axis_need_not_divide():
    contract = contract_of((np.zeros((5, 2)), np.zeros(3), None), "training")
    assert divided(contract, over(8), shared=False) is contract
    check_divides(contract, over(8), None)


def test_on_one_device_numpys_arrays_are_sent_as_they_are():
    batch = batch_of(4)
    assert Sender(ONE)(ChunkSpec(1, specification(batch)), batch) is batch


def test_an_array_of_this_process_spans_no_others():
    assert not spans_processes(jnp.zeros(3))
    assert not spans_processes(np.zeros(3))
    assert jax.process_count() == 1
