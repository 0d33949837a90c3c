"""Pixels of arrays, and PNG files read back by Pillow."""

import io

import jax.numpy as jnp
import numpy as np
import pytest

from jaxloop.files.png import encoded, pixels, require_pillow


def test_floats_from_0_to_1_become_0_to_255_rounded_and_what_lies_outside_is_cut_off():
    image = np.array([[0.0, 0.5, 1.0], [-3.0, 7.0, np.nan], [np.inf, -np.inf, 0.1]], np.float32)
    assert pixels("test", image).tolist() == [[0, 128, 255], [0, 255, 0], [255, 0, 26]]


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16, np.float64, bool])
def test_any_floats_and_bools_will_do(dtype):
    assert pixels("test", np.array([[0, 1]]).astype(dtype)).tolist() == [[0, 255]]


def test_bytes_are_taken_as_they_are():
    image = np.arange(6, dtype=np.uint8).reshape(2, 3)
    assert pixels("test", image).tolist() == image.tolist()


def test_device_arrays_will_do():
    assert pixels("test", jnp.ones((2, 2, 1))).tolist() == [[255, 255], [255, 255]]


@pytest.mark.parametrize(("shape", "expected"), [((2, 3), (2, 3)), ((2, 3, 1), (2, 3)), ((2, 3, 3), (2, 3, 3))])
def test_gray_images_have_two_axes_and_images_in_color_three(shape, expected):
    assert pixels("test", np.zeros(shape)).shape == expected


@pytest.mark.parametrize("shape", [(4,), (2, 2, 2), (2, 2, 4), (1, 2, 2, 3), (0, 3)])
def test_what_has_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"^test: the shape of an image must be .*, got \["):
        pixels("test", np.zeros(shape))


@pytest.mark.parametrize("dtype", [np.int32, np.complex64])
def test_what_has_another_dtype_is_refused_with_the_fix(dtype):
    with pytest.raises(TypeError, match=r"^test: an image must be of floats.*uint8, got (int32|complex64).*astype"):
        pixels("test", np.zeros((2, 2), dtype))


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 3)])
def test_pillow_reads_back_the_pixels(shape):
    image_module = pytest.importorskip("PIL.Image")
    image = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    file = io.BytesIO(encoded(image))
    assert file.getvalue().startswith(b"\x89PNG")
    np.testing.assert_array_equal(np.asarray(image_module.open(file)), image)


def test_where_pillow_is_missing_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    with pytest.raises(ModuleNotFoundError, match=r"^Painter: it needs Pillow.*jaxloop\[images\]"):
        require_pillow("Painter")
