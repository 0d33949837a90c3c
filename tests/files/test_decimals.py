"""Numbers as text by columns, against NumPy's own texts of each."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from jaxloop.files.decimals import floats, integers, lines
from jaxloop.measured import UNMEASURED, is_measured, unmeasured


def texts(text):
    return [bytes(row).replace(b"\0", b"").decode() for row in text.T]


def assert_as_numpy_writes(column):
    found = texts(floats(column))
    assert found == [str(number) for number in column]
    np.testing.assert_array_equal(np.array(found, np.float64).astype(np.float32), column)


@given(arrays(np.float32, st.integers(1, 20), elements=st.floats(width=32)))
def test_floats_are_the_shortest_texts_that_read_back_the_same(column):
    assert_as_numpy_writes(column)


@pytest.mark.parametrize("seed", range(4))
def test_floats_of_any_bits_are_as_numpy_writes_them(seed):
    bits = np.random.default_rng(seed).integers(0, 2**32, 20_000, dtype=np.uint32)
    assert_as_numpy_writes(bits.view(np.float32))


@pytest.mark.parametrize("digits", range(7))
def test_floats_of_few_digits_are_as_numpy_writes_them(digits):
    random = np.random.default_rng(digits)
    assert_as_numpy_writes(np.round(random.uniform(-2000, 2000, 20_000), digits).astype(np.float32))


def test_zeros_among_others_are_as_numpy_writes_them():
    assert_as_numpy_writes(np.array([0.0, 0.5, -0.0, 1e-4, 99999.0, -2.0], np.float32))
    assert_as_numpy_writes(np.array([0.0, -0.0], np.float32))


@pytest.mark.parametrize("towards", [-np.inf, 0, np.inf])
def test_floats_beside_powers_of_ten_are_as_numpy_writes_them(towards):
    powers = (10.0 ** np.arange(-8, 20)).astype(np.float32)
    beside = np.nextafter(powers, np.float32(towards))
    assert_as_numpy_writes(np.concatenate([powers, beside, -beside]))


@pytest.mark.parametrize("seed", range(4))
def test_losses_and_shares_are_as_numpy_writes_them(seed):
    random = np.random.default_rng(seed)
    counts = np.arange(1, 5001)
    assert_as_numpy_writes((np.cumsum(random.exponential(2.3, 5000)) / counts).astype(np.float32))
    assert_as_numpy_writes((np.cumsum(random.integers(0, 33, 5000)) / (32 * counts)).astype(np.float32))


@given(arrays(np.int32, st.integers(1, 20)))
def test_integers_are_as_numpy_writes_them(column):
    assert texts(integers(column)) == [str(number) if is_measured(number) else "" for number in column]


def test_lines_have_their_cells_in_order_and_a_text_in_each():
    cells = [np.array([7, 7, 7], np.int32), "training", np.array([1, 20, 300], np.int32)]
    cells += [np.array([0.5, np.nan, 2], np.float32), np.array([1, 1, 1], np.float32), "end"]
    assert lines(cells, 3) == b"7,training,1,0.5,1.0,end\n7,training,20,nan,1.0,end\n7,training,300,2.0,1.0,end\n"


def test_a_cell_that_differs_in_the_middle_alone_is_no_text_of_every_line():
    assert lines([np.array([1, 2, 1], np.int32)], 3) == b"1\n2\n1\n"


def test_a_column_of_nan_has_it_in_every_line():
    assert lines([np.array([np.nan, np.nan], np.float32)], 2) == b"nan\nnan\n"


@pytest.mark.parametrize("dtype", [np.int32, np.uint32, np.float32])
def test_what_was_not_measured_is_a_cell_without_text(dtype):
    column = np.array([7, unmeasured(dtype), 20], dtype)
    other = np.array([1, 2, 3], np.int32)
    seven, twenty = (b"7.0", b"20.0") if dtype is np.float32 else (b"7", b"20")
    assert lines([column, other], 3) == seven + b",1\n,2\n" + twenty + b",3\n"
    assert lines([column[1:2], other[:1]], 1) == b",1\n"


def test_what_has_diverged_is_nan_beside_what_was_not_measured():
    assert lines([np.array([np.nan, UNMEASURED, -np.inf], np.float32), "end"], 3) == b"nan,end\n,end\n-inf,end\n"


@given(arrays(np.uint32, st.integers(1, 20), elements=st.integers(0, 2**32 - 2)))
def test_large_whole_numbers_are_as_numpy_writes_them(column):
    assert texts(integers(column)) == [str(number) for number in column]


def test_a_text_that_is_not_ascii_comes_through():
    assert lines(["Übung", np.array([1, 2], np.int32)], 2).decode() == "Übung,1\nÜbung,2\n"
