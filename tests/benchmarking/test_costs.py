"""FLOPs against sums by hand, and peaks by the names that JAX gives devices."""

import jax
import jax.numpy as jnp
import pytest

from jaxloop.benchmarking.costs import flops_of, has_loop, peak_flops

SQUARE = jnp.ones((8, 8))
ONE_PRODUCT = 2 * 8 * 8 * 8  # a multiplication and an addition for each of 8 terms of 64 numbers


def traced(function, *arguments):
    return jax.make_jaxpr(function)(*arguments)


def product(carry, _):
    return carry @ carry, None


def scanned(length):
    return lambda start: jax.lax.scan(product, start, None, length=length)[0]


def test_a_matrix_product_is_a_multiplication_and_an_addition_for_each_term():
    assert flops_of(traced(lambda a, b: a @ b, jnp.ones((3, 5)), jnp.ones((5, 7)))) == 2 * 3 * 5 * 7


def test_the_body_of_a_scan_counts_as_often_as_it_runs():
    once, often = (flops_of(traced(scanned(length), SQUARE)) for length in (1, 10))

    assert often - once == pytest.approx(9 * ONE_PRODUCT, rel=0.01)


def test_scans_in_scans_and_in_jitted_functions_are_found():
    def outer(carry, _):
        return jax.jit(scanned(5))(carry) @ carry, None

    program = traced(lambda start: jax.lax.scan(jax.checkpoint(outer), start, None, length=3)[0], SQUARE)

    assert flops_of(program) == pytest.approx(3 * (5 + 1) * ONE_PRODUCT, rel=0.05)


def test_typed_keys_and_bfloat16_may_come_in():
    program = traced(
        lambda key, x: (x @ x) * jax.random.bernoulli(key, shape=x.shape), jax.random.key(0), SQUARE.astype("bfloat16")
    )

    assert flops_of(program) >= ONE_PRODUCT


@pytest.mark.parametrize(
    "function",
    [
        lambda x: jax.lax.while_loop(lambda c: c.sum() < 1e9, lambda c: c @ c, x),
        lambda x: jax.lax.cond(x.sum() > 0, scanned(3), lambda x: x, x),
    ],
    ids=["while", "scan in a branch"],
)
def test_where_nobody_knows_how_often_there_is_no_count(function):
    assert flops_of(traced(function, SQUARE)) is None


def test_a_program_without_arithmetic_has_no_flops():
    assert flops_of(traced(lambda x: x.T, SQUARE)) == 0


def test_a_loop_is_seen_wherever_it_stands():
    assert has_loop(traced(jax.jit(scanned(2)), SQUARE))
    assert not has_loop(traced(lambda x: x @ x, SQUARE))


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
