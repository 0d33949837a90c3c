"""What is known of a program, and peaks by the names that JAX gives devices."""

import jax
import jax.numpy as jnp
import pytest

from jaxloop.benchmarking.costs import costs_of, peak_flops

SQUARE = jnp.ones((8, 8))


def of_product(length):
    return jax.jit(lambda start: jax.lax.scan(lambda carry, _: (carry @ carry, None), start, None, length=length)[0])


def test_without_a_loop_flops_and_bytes_are_known():
    flops, traffic = costs_of(jax.jit(lambda x: x @ x).trace(SQUARE))
    assert flops == 2 * 8 * 8 * 8
    assert traffic == 3 * SQUARE.nbytes or traffic == 2 * SQUARE.nbytes  # by the version of XLA


def test_with_a_loop_of_a_known_length_flops_alone():
    assert costs_of(of_product(10).trace(SQUARE)) == (10 * 2 * 8 * 8 * 8, None)


def test_with_a_loop_of_no_known_length_neither():
    function = jax.jit(lambda x: jax.lax.while_loop(lambda c: c.sum() < 1e9, lambda c: c @ c, x))
    assert costs_of(function.trace(SQUARE)) == (None, None)


def test_of_what_is_no_traced_function_neither():
    assert costs_of(None) == (None, None)


@pytest.mark.parametrize(
    ("kind", "teraflops"),
    [
        ("TPU v3", 61.5),
        ("TPU v5 lite", 197),
        ("TPU v5p", 459),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H200", 989),
        ("NVIDIA H200 NVL", 835),
        ("NVIDIA L4", 121),
        ("Tesla T4", 65),
    ],
)
def test_the_peak_is_that_of_the_data_sheet(kind, teraflops):
    assert peak_flops(kind) == teraflops * 1e12


@pytest.mark.parametrize("kind", ["cpu", "NVIDIA GeForce RTX 4090", "TPU v99"])
def test_of_another_device_no_peak_is_known(kind):
    assert peak_flops(kind) is None
