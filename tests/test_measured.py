"""What was not measured, told from what has diverged, wherever a statistic goes."""

import doctest

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxloop import measured
from jaxloop.measured import UNMEASURED, as_floats, as_number, as_statistic, is_measured, unmeasured

NAN = np.float32(np.nan)
OTHER_NANS = [NAN, -NAN, np.uint32(0x7FC00001).view(np.float32), np.uint32(0xFFFFFFFF).view(np.float32)]


def test_what_was_not_measured_is_nan():
    assert np.isnan(UNMEASURED)
    assert UNMEASURED.dtype == np.float32


@pytest.mark.parametrize("value", [*OTHER_NANS, np.float32(np.inf), 0.5, 3, True, -np.inf, float(NAN)])
def test_any_other_number_was_measured(value):
    assert is_measured(value)
    assert is_measured(jnp.asarray(value))


@pytest.mark.parametrize(
    "travelled",
    [
        lambda value: value,
        float,
        lambda value: np.float32(float(value)),
        np.float64,
        jnp.asarray,
        lambda value: jax.device_get(jnp.asarray(value)),
        lambda value: np.array([1.0, float(value)])[1],
        lambda value: np.array([value]).view(np.int32).view(np.float32)[0],
        lambda value: np.frombuffer(np.array([value]).tobytes(), np.float32)[0],
        jax.jit(lambda value: jnp.where(value == 0, 1.0, value)),
        jax.jit(
            lambda value: jax.lax.bitcast_convert_type(jax.lax.bitcast_convert_type(value, jnp.int32), jnp.float32)
        ),
    ],
)
def test_it_is_known_by_its_bits_wherever_it_has_been(travelled):
    assert not is_measured(travelled(UNMEASURED))
    assert is_measured(travelled(NAN))


@pytest.mark.parametrize("dtype", [np.int32, np.uint32, np.float32])
def test_it_is_told_in_a_traced_program(dtype):
    values = np.array([1, unmeasured(dtype), 0], dtype)
    assert jax.jit(is_measured)(values).tolist() == [True, False, True]
    assert is_measured(values).tolist() == [True, False, True]
    assert as_floats(values)[[0, 2]].tolist() == [1.0, 0.0]
    assert np.isnan(as_floats(values)[1])


def test_in_double_precision_it_is_the_same():
    with jax.enable_x64(True):
        assert jax.jit(is_measured)(np.array([UNMEASURED, NAN, 1], np.float64)).tolist() == [False, True, True]


def test_a_whole_number_stays_one_and_what_was_not_measured_is_nan_in_python():
    assert (as_number(np.int32(2**24 + 1)), as_number(jnp.float32(0.5))) == (2**24 + 1, 0.5)
    assert isinstance(as_number(np.uint32(7)), int)
    assert np.isnan(as_number(unmeasured(np.int32)))
    assert not is_measured(as_number(unmeasured(np.uint32)))


def test_a_bool_is_counted_as_a_share():
    assert as_statistic("here", "clipped", np.bool_(True)).dtype == np.float32
    assert as_statistic("here", "clipped", jnp.bool_(True), np.dtype("int32")).dtype == np.int32


def test_of_two_kinds_the_wider_one_is_kept():
    assert as_statistic("here", "norm", jnp.float32(0.5), np.dtype("int32")).dtype == np.float32
    assert as_statistic("here", "tokens", jnp.uint32(5), np.dtype("int32")).dtype == np.uint32


def test_its_examples_run():
    assert doctest.testmod(measured).failed == 0


def test_the_least_float_is_measured_unless_it_stands_for_nan() -> None:
    least = np.float32(np.finfo(np.float32).min)
    assert bool(is_measured(least))
    assert bool(jax.jit(is_measured)(least))
    with jax.debug_nans(True):
        assert not bool(is_measured(least))
        assert not bool(is_measured(unmeasured(np.float32)))
