"""What a process asks for: there and back, as bits in a dispatch's argument and in its rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxloop.asking import Ask, argument, asked_in, counted_and_asked, scopes_of, sharding
from jaxloop.events import Scope
from jaxloop.placement import Placement

ALL = [*Scope, *Ask]


@pytest.fixture
def placement() -> Placement:
    return Placement(jax.devices()[0])


def test_what_is_asked_for_has_a_bit_of_its_own() -> None:
    assert sorted(int(each) for each in ALL) == [1, 2, 4, 8, 16, 32, 64, 128]


@pytest.mark.parametrize("asked", [0, *map(int, ALL), 255, 17 | 64])
def test_an_argument_holds_the_bits_of_this_process_for_each_device(placement, asked) -> None:
    found = argument(placement, asked)
    assert (found.shape, found.dtype) == ((1, 8), np.float32)
    assert found.sharding.is_equivalent_to(sharding(placement), 2)
    assert sum(int(bit) << place for place, bit in enumerate(np.asarray(found)[0])) == asked
    assert argument(placement, asked) is found, "it is made once"


@pytest.mark.parametrize("counted", [False, True])
@pytest.mark.parametrize("asked", [(0, 0, 0), (1, 0, 0), (16, 64, 0), (128, 128, 128), (255, 0, 1)])
def test_a_row_tells_what_any_device_asks_for_and_whether_the_step_counted(counted, asked) -> None:
    bits = np.array([[each >> bit & 1 for bit in range(8)] for each in asked], np.float32)
    place = np.asarray(jax.jit(counted_and_asked)(counted, bits))
    assert (place.shape, place.dtype) == ((), np.int32)
    assert place & 1 == counted
    expected = asked[0] | asked[1] | asked[2]
    row = np.array([place, 7, 8], np.int32)
    assert asked_in(row) == expected
    assert asked_in(np.stack([row * 0, row])) == expected, "the last step's row tells of the dispatch"


def test_many_devices_that_ask_for_one_thing_ask_for_it_once() -> None:
    bits = jnp.zeros((300, 8)).at[:, 3].set(1.0)
    assert int(counted_and_asked(True, bits)) == 1 | 8 << 1


def test_scopes_are_told_from_signals_and_saves() -> None:
    asked = int(Scope.FIT | Scope.VALIDATION) | Ask.TERMINATE | Ask.SAVE
    assert scopes_of(asked) == Scope.FIT | Scope.VALIDATION
    assert scopes_of(Ask.INTERRUPT) == 0
