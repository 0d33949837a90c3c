"""What `on=` may name."""

import jax
import pytest

from jaxloop.placement import default_device, resolve


def test_the_default_is_the_first_device():
    assert default_device() == jax.devices()[0]


def test_none_is_the_default_device():
    assert resolve(None) == default_device()


def test_a_device_is_itself():
    device = jax.devices()[-1]
    assert resolve(device) is device


@pytest.mark.parametrize("on", ["cpu", "cpu:0"])
def test_a_platform_is_its_first_device(on):
    assert resolve(on) == jax.devices("cpu")[0]


@pytest.mark.parametrize("on", ["abacus", "cpu:99", "cpu:one", "abacus:0", "cpu:-1", ""])
def test_a_device_that_is_not_here_is_refused_with_those_that_are(on):
    with pytest.raises(ValueError, match=rf"there is no device '{on}' here; there are: \w+:0"):
        resolve(on)


@pytest.mark.parametrize("on", [3, ["cpu"]])
def test_what_names_no_device_is_refused(on):
    with pytest.raises(TypeError, match="on: expected a device, a platform name or None, got"):
        resolve(on)
