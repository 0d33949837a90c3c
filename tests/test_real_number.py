"""Real numbers as arguments."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from jaxloop.real_number import real_number


@pytest.mark.parametrize("value", [2, 2.0, np.float32(2), np.int8(2), np.array(2.0), jnp.float32(2), jnp.bfloat16(2)])
def test_it_is_a_number_of_python(value: Any) -> None:
    found = real_number("where", value)
    assert type(found) is float
    assert found == 2


@pytest.mark.parametrize("value", ["2", True, None, [2.0, 3.0], 2j, b"2"])
def test_what_is_no_number_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match=r"^ema: `decay` must be a number, got "):
        real_number("ema: `decay`", value)
