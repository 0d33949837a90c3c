"""Convolutions in canonical layout: the same numbers, wherever in the program they stand."""

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from jax.extend.core import check_jaxpr
from jax.sharding import PartitionSpec

from jaxloop.programs.canonical import canonical, other_layouts, rewritten
from jaxloop.step import run_steps
from tests import small

NCHW = ("NCHW", "OIHW", "NCHW")
NHWC = ("NHWC", "HWIO", "NHWC")
MAPS = np.random.default_rng(0).normal(size=(2, 3, 5, 5)).astype(np.float32)
KERNEL = 0.1 * np.random.default_rng(1).normal(size=(3, 3, 3, 3)).astype(np.float32)


def convolved(maps: Any, kernel: Any, dimension_numbers: Any = NCHW) -> jax.Array:
    return lax.conv_general_dilated(maps, kernel, (1, 1), "SAME", dimension_numbers=dimension_numbers)


def assert_same(function: Callable[..., Any], *arguments: Any, tolerance: float = 0) -> None:
    """That the function rewritten holds no other layout, is well typed, and gives the same.

    Args:
      tolerance: how far apart, of the largest entry of an array; 0 is bit for bit.
    """
    closed = rewritten(jax.make_jaxpr(function)(*arguments))
    check_jaxpr(getattr(closed, "jaxpr", closed))
    assert other_layouts(closed) == ()
    before, after = jax.jit(function)(*arguments), jax.jit(canonical(function))(*arguments)
    assert jax.tree.structure(before) == jax.tree.structure(after)
    for one, other in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        assert one.aval == other.aval
        one, other = (np.asarray(array, np.float64) for array in (one, other))
        if one.size:
            np.testing.assert_allclose(other, one, rtol=0, atol=tolerance * np.abs(one).max())


@st.composite
def convolutions(draw: Any) -> tuple[Callable[..., jax.Array], jax.Array, jax.Array]:
    """A convolution of one to three spatial dimensions with anything set, and what it may be applied to."""
    rank = draw(st.integers(1, 3))
    each = partial(st.lists, min_size=rank, max_size=rank)
    groups, kind = draw(st.integers(1, 3)), draw(st.sampled_from(["feature_group_count", "batch_group_count"]))
    by_feature, by_batch = (groups, 1) if kind == "feature_group_count" else (1, groups)
    inputs, outputs, batch = (draw(st.integers(1, 2)) for _ in range(3))
    size, window = draw(each(st.integers(3, 6))), draw(each(st.integers(1, 3)))
    lhs = draw(st.permutations(range(rank + 2)))
    numbers = lax.ConvDimensionNumbers(
        tuple(lhs), tuple(draw(st.permutations(range(rank + 2)))), tuple(draw(st.permutations(range(rank + 2))))
    )
    dtype = draw(st.sampled_from([jnp.float32, jnp.float32, jnp.bfloat16, jnp.float16]))
    wider = draw(st.sampled_from([None, jnp.float32]))
    settings_of_it = {
        "window_strides": draw(each(st.integers(1, 2))),
        "padding": draw(each(st.tuples(st.integers(0, 2), st.integers(0, 2)))),
        "lhs_dilation": draw(each(st.integers(1, 2))),
        "rhs_dilation": draw(each(st.integers(1, 2))),
        kind: groups,
        "dimension_numbers": numbers,
        "preferred_element_type": wider,
    }
    generator = np.random.default_rng(draw(st.integers(0, 9)))

    def array(spec: Any, *lengths: int) -> jax.Array:
        shape = [lengths[spec.index(axis)] for axis in range(rank + 2)]
        return jnp.asarray(generator.normal(size=shape), dtype)

    maps = array(numbers.lhs_spec, batch * by_batch, inputs * by_feature, *size)
    kernel = array(numbers.rhs_spec, outputs * groups, inputs, *window)
    return partial(lax.conv_general_dilated, **settings_of_it), maps, kernel


@pytest.mark.slow
@settings(max_examples=8)
@given(convolutions())
def test_any_convolution_and_its_gradients_are_the_same_bit_for_bit(drawn):
    convolution, maps, kernel = drawn

    def run(maps, kernel):
        output, pullback = jax.vjp(convolution, maps, kernel)
        return output, pullback(jnp.cos(output))

    assert_same(run, maps, kernel)


@pytest.mark.parametrize(
    "numbers", [NCHW, ("CNHW", "IHWO", "HNWC"), ("NHWC", "OHWI", "NHWC"), ("NHWC", "HWIO", "NCHW")], ids=str
)
def test_a_convolution_becomes_one_in_canonical_layout_between_the_transposes_it_needs(numbers):
    def run(maps, kernel):
        return convolved(maps, kernel, numbers)

    closed = rewritten(jax.make_jaxpr(run)(np.ones((4, 4, 4, 4), np.float32), np.ones((4, 4, 4, 4), np.float32)))
    names = [equation.primitive.name for equation in closed.eqns]
    needed = [letters for letters, wanted in zip(numbers, NHWC, strict=True) if letters != wanted]
    assert names.count("transpose") == len(needed)
    assert names.count("conv_general_dilated") == 1
    convolution = closed.eqns[names.index("conv_general_dilated")]
    assert convolution.params["dimension_numbers"] == lax.conv_dimension_numbers((1,) * 4, (1,) * 4, NHWC)
    assert_same(run, np.ones((4, 4, 4, 4), np.float32), np.ones((4, 4, 4, 4), np.float32))


def test_a_jaxpr_with_nothing_to_rewrite_is_given_back_as_it_is():
    def run(maps, kernel):
        return jax.jit(lambda maps: jnp.tanh(convolved(maps, kernel, NHWC)))(maps)

    closed = jax.make_jaxpr(run)(MAPS.transpose(0, 2, 3, 1), KERNEL)
    assert other_layouts(closed) == ()
    assert rewritten(closed) is closed


def squared(maps: Any, kernel: Any) -> jax.Array:
    return convolved(maps, kernel) ** 2


by_jvp = jax.custom_jvp(squared)
by_jvp.defjvp(lambda values, tangents: jax.jvp(squared, values, tangents))
by_vjp = jax.custom_vjp(squared)
by_vjp.defvjp(
    lambda maps, kernel: (squared(maps, kernel), (maps, kernel)), lambda saved, g: jax.vjp(squared, *saved)[1](g)
)

STRAIGHT = {
    "jit": jax.jit(squared),
    "remat": jax.checkpoint(squared),
    "custom_jvp": by_jvp,
    "custom_vjp": by_vjp,
}
#: Here the convolutions that were not rewritten run on other kernels, and round otherwise.
IN_BRANCHES_AND_LOOPS = {
    "scan": lambda maps, kernel: lax.scan(lambda maps, _: (jnp.tanh(squared(maps, kernel)), maps), maps, length=2),
    "map": lambda maps, kernel: lax.map(lambda one: squared(one[None], kernel), maps),
    "cond": lambda maps, kernel: lax.cond(kernel.sum() < 99, squared, convolved, maps, kernel),
    "switch": lambda maps, kernel: lax.switch(2, [lambda *_: MAPS, convolved, squared], maps, kernel),
    "jit in scan in cond": lambda maps, kernel: lax.cond(
        kernel.sum() < 99,
        lambda: lax.scan(lambda one, _: (jax.jit(squared)(one, kernel), None), maps, length=1)[0],
        lambda: maps,
    ),
}


def total(function: Callable[..., Any], kernel: Any) -> jax.Array:
    """A number that is differentiated."""
    return sum((leaf.sum() for leaf in jax.tree.leaves(function(MAPS, kernel))), jnp.float32(0))


@pytest.mark.parametrize("name", [*STRAIGHT, *IN_BRANCHES_AND_LOOPS])
def test_convolutions_and_their_gradients_are_rewritten_inside(name):
    function = (STRAIGHT | IN_BRANCHES_AND_LOOPS)[name]
    assert other_layouts(jax.make_jaxpr(function)(MAPS, KERNEL)) != ()
    assert_same(
        lambda kernel: (function(MAPS, kernel), jax.grad(partial(total, function))(kernel)),
        KERNEL,
        tolerance=0 if name in STRAIGHT else 1e-5,
    )


def test_convolutions_are_rewritten_inside_a_while_loop_and_its_condition():
    def run(maps, kernel):
        return lax.while_loop(
            lambda maps: jnp.square(convolved(maps, kernel)).sum() < 5e4,
            lambda maps: 2 * maps + convolved(maps, kernel),
            maps,
        )

    places = other_layouts(jax.make_jaxpr(run)(MAPS, KERNEL))
    assert places == ("while/conv_general_dilated", "while/conv_general_dilated")
    assert_same(run, MAPS, KERNEL, tolerance=1e-5)


@pytest.mark.parametrize("name", [*STRAIGHT, "scan"])
def test_the_rewritten_function_can_be_differentiated(name):
    function = (STRAIGHT | IN_BRANCHES_AND_LOOPS)[name]
    expected, got = (
        jax.jit(jax.grad(partial(total, function)))(KERNEL) for function in (function, canonical(function))
    )
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_the_rewritten_function_can_be_mapped():
    kernels = np.stack([KERNEL, 2 * KERNEL])
    mapped = jax.jit(jax.vmap(canonical(squared), (None, 0)))(MAPS, kernels)
    expected = np.stack([squared(MAPS, kernel) for kernel in kernels])
    np.testing.assert_allclose(mapped, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_what_runs_the_jaxprs_of_an_unknown_primitive_is_not_known_so_they_stay_and_are_told_of():
    mesh = jax.make_mesh((1,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = PartitionSpec("x")
    sharded = jax.shard_map(squared, mesh=mesh, in_specs=(spec, PartitionSpec()), out_specs=spec)

    def run(maps, kernel):
        return jax.jit(sharded)(convolved(maps, kernel), kernel)

    closed = rewritten(jax.make_jaxpr(run)(MAPS, KERNEL))
    assert other_layouts(closed) == ("jit/shard_map/conv_general_dilated",)
    np.testing.assert_array_equal(jax.jit(canonical(run))(MAPS, KERNEL), jax.jit(run)(MAPS, KERNEL))


def test_trees_keys_integers_and_missing_parts_come_out_as_they_would():
    def run(tree, number):
        maps = convolved(tree["maps"], KERNEL)
        return {
            "maps": maps,
            "none": None,
            "key": jax.random.fold_in(tree["key"], 1),
            "step": number + 1,
            "pair": (tree["maps"], 2.0),
        }

    tree = {"key": jax.random.key(3), "maps": MAPS}
    expected, got = jax.jit(run)(tree, 1), jax.jit(canonical(run))(tree, 1)
    assert jax.tree.map(lambda leaf: leaf.aval, got) == jax.tree.map(lambda leaf: leaf.aval, expected)
    small.assert_trees_equal(got, expected)


def test_effects_happen_once_and_in_order(capfd):
    def body(maps, _):
        jax.debug.print("at {}", convolved(maps, KERNEL).sum().astype(int) * 0 + 1, ordered=True)
        jax.debug.print("then", ordered=True)
        return maps, None

    jax.block_until_ready(jax.jit(canonical(lambda maps: lax.scan(body, maps, length=2)[0]))(MAPS))
    jax.effects_barrier()
    assert capfd.readouterr().out.split("\n")[:4] == ["at 1", "then", "at 1", "then"]


def test_names_and_places_in_the_source_stay():
    @jax.named_scope("a_scope")
    def run(maps):
        return jax.jit(lambda maps: jax.named_call(convolved, name="b_scope")(maps, KERNEL))(maps)

    text = jax.jit(canonical(run)).lower(MAPS).as_text(debug_info=True)
    for kept in ("jit(run)", "a_scope", 'b_scope/conv_general_dilated"', 'b_scope/transpose"', "test_canonical.py"):
        assert kept in text
    assert canonical(run).__name__ == "run"


@pytest.mark.parametrize("mode", [jax.disable_jit, jax.debug_nans])
def test_nothing_is_traced_where_values_are_to_be_looked_into(mode):
    seen = []
    with mode():
        canonical(seen.append)(MAPS)
    assert seen[0] is MAPS


def test_a_jaxpr_that_is_used_twice_stays_one():
    inner = jax.jit(squared)
    closed = rewritten(jax.make_jaxpr(lambda maps: inner(inner(maps, KERNEL), KERNEL))(MAPS))
    first, second = (equation.params["jaxpr"] for equation in closed.eqns if equation.primitive.name == "jit")
    assert first is second
    assert other_layouts(closed) == ()


def test_shardings_follow_the_axes():
    mesh = jax.make_mesh((1,), ("x",), axis_types=(jax.sharding.AxisType.Explicit,))
    with jax.set_mesh(mesh):
        maps = jax.device_put(MAPS, PartitionSpec("x"))

        def run(maps, kernel):
            spec = PartitionSpec(None, None, "x")
            convolution = partial(lax.conv_general_dilated, dimension_numbers=("NCHW", "OIHW", "HWNC"))
            output, pullback = jax.vjp(lambda maps: convolution(maps, kernel, (1, 1), "SAME", out_sharding=spec), maps)
            return output, pullback(output)

        assert_same(run, maps, KERNEL)
        expected = [leaf.sharding for leaf in jax.tree.leaves(jax.jit(run)(maps, KERNEL))]
        assert [leaf.sharding for leaf in jax.tree.leaves(jax.jit(canonical(run))(maps, KERNEL))] == expected


def train(carry: Any, batch: Any) -> tuple[Any, jax.Array]:
    """A step of gradient descent with momentum on two convolutions with a norm and a pooling between."""
    params, trace = carry

    def mean_loss(params):
        maps = convolved(batch, params["first"], NHWC)
        maps = (maps - maps.mean((0, 1, 2))) * lax.rsqrt(maps.var((0, 1, 2)) + 1e-5)
        maps = lax.reduce_window(jax.nn.relu(maps), -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        return jnp.square(convolved(maps, params["second"], NHWC) - 1).mean()

    loss, gradient = jax.value_and_grad(mean_loss)(params)
    trace = jax.tree.map(lambda old, new: 0.9 * old + new, trace, gradient)
    return (jax.tree.map(lambda value, change: value - 0.1 * change, params, trace), trace), loss


@pytest.fixture
def started() -> tuple[Any, np.ndarray]:
    """What `train` begins with, and four batches."""
    generator = np.random.default_rng(2)
    params = {
        "first": generator.normal(size=(3, 3, 3, 4)).astype(np.float32),
        "second": generator.normal(size=(3, 3, 4, 4)).astype(np.float32),
    }
    batches = generator.normal(size=(4, 2, 8, 8, 3)).astype(np.float32)
    return (params, jax.tree.map(np.zeros_like, params)), batches


def test_steps_in_one_program_equal_single_steps_bit_for_bit(started):
    carry, batches = started
    together, losses = jax.jit(canonical(partial(run_steps, train, count=4)))(carry, batches)
    step = jax.jit(train)
    for batch, loss in zip(batches, losses, strict=True):
        carry, single = step(carry, batch)
        np.testing.assert_array_equal(loss, single)
    jax.tree.map(np.testing.assert_array_equal, together, carry)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="of the CPU backend")
def test_the_backend_keeps_the_layout_inside_the_loop(started):
    def labels(function):
        text = jax.jit(function).lower(*started).compile().as_text()
        return set(re.findall(r"dim_labels=(\S*->\S*?),", text))

    many = partial(run_steps, train, count=4)
    assert labels(canonical(many)) == {"b01f_01io->b01f"}
    assert labels(many) > {"b01f_01io->b01f"}
