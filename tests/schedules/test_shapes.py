"""The shapes of a rate's way, each against its formula."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxloop.schedules.shapes import Shape, cosine, exponential, linear, polynomial

STEPS = np.arange(8)
X = STEPS / 7


def way(shape, start, end, width=7):
    return np.asarray(shape.between(start, end, width)(np.arange(width + 1)))


@pytest.mark.parametrize(("start", "end"), [(0.0, 1.0), (0.5, 0.25), (1.0, 0.0), (-0.5, 0.5)])
@pytest.mark.parametrize(
    ("shape", "gone"),
    [
        (linear, X),
        (cosine, (1 - np.cos(np.pi * X)) / 2),
        (polynomial(2), 1 - (1 - X) ** 2),
        (polynomial(0.5), 1 - np.sqrt(1 - X)),
        (Shape(lambda x: x * x), X**2),
        (Shape(lambda x: 5 - 3 * math.sin(x)), np.sin(X) / np.sin(1)),
    ],
    ids=["linear", "cosine", "polynomial(2)", "polynomial(0.5)", "a curve", "a curve that falls"],
)
def test_a_shape_is_stretched_from_start_to_end(shape, gone, start, end):
    np.testing.assert_allclose(way(shape, start, end), start + (end - start) * gone, atol=1e-6)


@pytest.mark.parametrize(("start", "end"), [(1e-4, 1.0), (1.0, 1e-4), (0.5, 0.5), (-0.1, -0.3)])
def test_exponential_multiplies_by_the_same_factor_at_each_step(start, end):
    np.testing.assert_allclose(way(exponential, start, end), start * (end / start) ** X, rtol=2e-6)


@pytest.mark.parametrize("shape", [linear, cosine, polynomial(3), Shape(math.exp)])
def test_a_small_end_rate_is_reached_exactly(shape):
    assert way(shape, 1.0, 1e-7)[-1] == np.float32(1e-7)


def test_shapes_are_equal_by_what_they_are():
    assert polynomial(2) == polynomial(2.0) != polynomial(2.5)
    assert linear != cosine
    assert Shape(math.exp) == Shape(math.exp) != Shape(math.sin)
    assert repr([linear, polynomial(2), polynomial(0.5)]) == "[linear, polynomial(2), polynomial(0.5)]"


def test_a_curve_is_asked_once_for_each_step_with_a_python_number():
    asked = []

    def curve(x):
        asked.append(x)
        return x

    shape = Shape(curve)
    asked.clear()
    shape.between(0.0, 1.0, 4)
    assert asked == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert all(type(x) is float for x in asked)


def test_a_curve_of_jax_may_be_sampled_inside_of_a_trace():
    def rate(step):
        return Shape(lambda x: jnp.sin(x)).between(0.0, 1.0, 7)(step)

    np.testing.assert_allclose(jax.vmap(jax.jit(rate))(STEPS), np.sin(X) / np.sin(1), atol=1e-6)


def test_a_curve_with_equal_ends_is_refused_with_the_fix():
    with pytest.raises(ValueError, match=r"different values at 0 and at 1, .* both are 1. For a constant rate write"):
        Shape(lambda x: math.cos(2 * math.pi * x))


@pytest.mark.parametrize("curve", [lambda x: float("nan"), lambda x: 1 / x if x else float("inf")])
def test_a_curve_that_is_not_finite_at_its_ends_is_refused(curve):
    with pytest.raises(ValueError, match=r"the curve must be finite from 0 to 1; at 0 it is (nan|inf)"):
        Shape(curve)


def test_a_curve_that_is_not_finite_in_between_is_refused_when_it_is_sampled():
    shape = Shape(lambda x: x if x != 0.5 else float("inf"))
    with pytest.raises(ValueError, match=r"at 0.5 it is inf"):
        shape.between(0.0, 1.0, 4)


def test_a_curve_that_gives_no_number_is_refused():
    with pytest.raises(TypeError, match=r"must give a number .*, got 'a' at 0"):
        Shape(lambda x: "a")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"must give a number .*, got \[0.0\] at 0"):
        Shape(lambda x: [x])
    with pytest.raises(TypeError, match=r"`curve` must be a function, got 3. Write"):
        Shape(3)  # type: ignore[arg-type]


@pytest.mark.parametrize("power", [0, -1, float("inf"), float("nan"), True, "2"])
def test_a_power_that_is_not_above_zero_is_refused(power):
    with pytest.raises(ValueError, match=r"polynomial: `power` must be a number above 0, got"):
        polynomial(power)
