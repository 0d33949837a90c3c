"""FLOPs against sums by hand, and against what XLA counts where it does."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxloop.programs.flops import flops_of, loops_in

SQUARE = jnp.ones((8, 8))
ONE_PRODUCT = 2 * 8 * 8 * 8  # a multiplication and an addition for each of 8 terms of 64 numbers


def traced(function, *arguments):
    return jax.make_jaxpr(function)(*arguments)


def by_xla(function, *arguments):
    """What XLA counts before it compiles."""
    return jax.jit(function).lower(*arguments).cost_analysis().get("flops", 0.0)


def product(carry, _):
    return carry @ carry, None


def scanned(length):
    return lambda start: jax.lax.scan(product, start, None, length=length)[0]


# --- products and convolutions


def test_a_matrix_product_is_a_multiplication_and_an_addition_for_each_term():
    assert flops_of(traced(lambda a, b: a @ b, jnp.ones((3, 5)), jnp.ones((5, 7)))) == 2 * 3 * 5 * 7


@pytest.mark.parametrize("equation", ["bij,bjk->bik", "ijk,kj->i", "abc,dec->abde", "i,j->ij"])
def test_products_of_other_axes_agree_with_xla(equation):
    one, other = (jnp.ones([2 + ord(axis) % 5 for axis in axes]) for axes in equation.split("->")[0].split(","))

    def function(one, other):
        return jnp.einsum(equation, one, other)

    assert flops_of(traced(function, one, other)) == by_xla(function, one, other)


@st.composite
def convolutions(draw):
    """A convolution of one to three spatial dimensions, with its operands."""
    count = draw(st.integers(1, 3))

    def each(least, most):
        return tuple(draw(st.lists(st.integers(least, most), min_size=count, max_size=count)))

    groups = draw(st.sampled_from([1, 2]))
    options = {
        "window_strides": each(1, 3),
        "padding": tuple(zip(each(0, 2), each(0, 2), strict=True)),
        "lhs_dilation": each(1, 2),
        "rhs_dilation": each(1, 2),
        "feature_group_count": groups,
    }
    maps = jnp.ones((draw(st.integers(1, 3)), 2 * groups, *each(5, 7)))
    kernel = jnp.ones((3 * groups, 2, *each(1, 3)))
    return maps, kernel, options


@settings(max_examples=30, deadline=None)
@given(convolutions())
def test_convolutions_of_every_kind_agree_with_xla(convolution):
    maps, kernel, options = convolution

    def function(maps, kernel):
        return jax.lax.conv_general_dilated(maps, kernel, **options)

    assert flops_of(traced(function, maps, kernel)) == by_xla(function, maps, kernel)


@settings(max_examples=15, deadline=None)
@given(convolutions())
def test_gradients_of_convolutions_agree_with_xla(convolution):
    maps, kernel, options = convolution

    def function(maps, kernel, cotangent):
        result, pull = jax.vjp(lambda *both: jax.lax.conv_general_dilated(*both, **options), maps, kernel)
        return result, pull(cotangent)

    cotangent = jax.lax.conv_general_dilated(maps, kernel, **options)
    found = flops_of(traced(function, maps, kernel, cotangent))
    assert found == pytest.approx(by_xla(function, maps, kernel, cotangent), rel=0.01)


# --- other arithmetic


@pytest.mark.parametrize(
    ("function", "flops"),
    [
        (lambda x: x + 1.0, 64),
        (lambda x: jnp.exp(x) * x, 2 * 64),
        (lambda x: x.sum(), 64),
        (lambda x: x.max(axis=0), 64),
        (lambda x: x.argmax(axis=1), 64),
        (lambda x: jnp.zeros(3).at[jnp.arange(64) % 3].add(x.ravel()), 64),
        (lambda x: x.T, 0),
        (lambda x: x.astype("bfloat16"), 0),
        (lambda x: jnp.arange(64) + 1, 0),
    ],
    ids=["add", "exp and multiply", "sum", "max", "argmax", "scatter", "transpose", "convert", "integers"],
)
def test_other_arithmetic_on_floats_counts_one_for_each_number(function, flops):
    assert flops_of(traced(function, SQUARE)) == flops


def test_a_whole_step_agrees_with_xla():
    optimizer = optax.adam(1e-3)
    params = {"kernel": jnp.ones((64, 32)), "second": jnp.ones((32, 10))}

    def step(params, state, images, labels):
        def loss(params):
            logits = jax.nn.relu(images @ params["kernel"]) @ params["second"]
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return optax.apply_updates(params, updates), state

    arguments = params, optimizer.init(params), jnp.ones((128, 64)), np.zeros(128, np.int32)
    assert flops_of(traced(step, *arguments)) == pytest.approx(by_xla(step, *arguments), rel=0.05)


def test_typed_keys_and_bfloat16_may_come_in():
    def function(key, x):
        return (x @ x) * jax.random.bernoulli(key, shape=x.shape)

    assert flops_of(traced(function, jax.random.key(0), SQUARE.astype("bfloat16"))) >= ONE_PRODUCT


# --- what holds other programs


@pytest.mark.parametrize("length", [0, 1, 10])
def test_the_body_of_a_scan_counts_as_often_as_it_runs(length):
    assert flops_of(traced(scanned(length), SQUARE)) == length * ONE_PRODUCT


def test_scans_in_scans_and_in_jitted_functions_are_found():
    def outer(carry, _):
        return jax.jit(scanned(5))(carry) @ carry, None

    program = traced(lambda start: jax.lax.scan(jax.checkpoint(outer), start, None, length=3)[0], SQUARE)
    assert flops_of(program) == 3 * (5 + 1) * ONE_PRODUCT


@jax.custom_jvp
def own_jvp(x):
    return x @ x


own_jvp.defjvp(lambda primals, tangents: (own_jvp(*primals), tangents[0]))


@jax.custom_vjp
def own_vjp(x):
    return x @ x


own_vjp.defvjp(lambda x: (x @ x, None), lambda _, cotangent: (cotangent,))


@pytest.mark.parametrize(
    "function",
    [jax.jit(lambda x: x @ x), jax.checkpoint(lambda x: x @ x), own_jvp, own_vjp, jax.vmap(lambda x: x @ SQUARE)],
    ids=["jit", "checkpoint", "custom_jvp", "custom_vjp", "vmap"],
)
def test_a_program_in_another_counts_once(function):
    assert flops_of(traced(function, SQUARE)) == ONE_PRODUCT


def test_of_branches_the_one_with_the_most_counts():
    program = traced(lambda x: jax.lax.cond(x[0, 0] > 0, scanned(3), lambda x: x, x), SQUARE)
    assert flops_of(program) == 3 * ONE_PRODUCT


def test_the_body_of_a_while_loop_counts_once():
    program = traced(lambda x: jax.lax.while_loop(lambda c: c[0, 0] < 9, lambda c: c @ c, x), SQUARE)
    assert flops_of(program) == ONE_PRODUCT


@pytest.mark.parametrize(
    ("function", "loops"),
    [
        (lambda x: x @ x, set()),
        (jax.jit(scanned(2)), {"scan"}),
        (lambda x: jax.lax.cond(x[0, 0] > 0, scanned(3), lambda x: x, x), {"scan"}),
        (lambda x: jax.lax.while_loop(lambda c: c[0, 0] < 9, scanned(2), x), {"scan", "while"}),
    ],
    ids=["none", "in jit", "in a branch", "one in another"],
)
def test_loops_are_found_wherever_they_stand(function, loops):
    assert loops_in(traced(function, SQUARE)) == loops
