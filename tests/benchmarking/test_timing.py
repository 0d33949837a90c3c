"""Timing a function, under a clock that the function sets."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxloop.benchmarking import timing
from jaxloop.benchmarking.measurement import Quartiles
from jaxloop.benchmarking.timing import devices_of

LITTLE = {"calls": 3, "rounds": 2, "warmup": 1, "carry": None, "examples": None}
time_function = functools.partial(timing.time_function, **LITTLE)


def test_a_call_takes_what_a_round_takes_by_its_calls(clock_of):
    clock = clock_of(timing)

    def half_a_second():
        clock.now += 0.5

    measured = time_function(half_a_second, ())

    assert measured.seconds == measured.dispatch_seconds == measured.latency_seconds == Quartiles(0.5, 0.5, 0.5)
    assert (measured.name, measured.rounds, measured.calls) == ("half_a_second", 2, 3)
    assert (measured.device_kind, measured.device_count) == (None, 0)


def test_dispatch_ends_when_the_call_comes_back_and_latency_when_its_result_is_there(clock_of, monkeypatch):
    clock = clock_of(timing)

    def wait(results):
        clock.now += 2.0
        return results

    monkeypatch.setattr(jax, "block_until_ready", wait)

    def quarter():
        clock.now += 0.25

    measured = time_function(quarter, ())

    assert measured.dispatch_seconds == Quartiles(0.25, 0.25, 0.25)
    assert measured.latency_seconds == Quartiles(2.25, 2.25, 2.25)
    assert measured.seconds.median == pytest.approx((3 * 0.25 + 2) / 3)


@pytest.mark.parametrize(("seconds", "calls"), [(0.001, 32), (0.02, 10), (0.5, 1)])
def test_where_not_said_calls_fill_a_fifth_of_a_second_and_are_at_most_32(clock_of, seconds, calls):
    clock = clock_of(timing)

    def step():
        clock.now += seconds

    assert time_function(step, (), calls=None).calls in (calls, calls - 1)  # 0.2 / 0.02 may be less than 10


def test_the_counts_of_a_jitted_function_are_xlas():
    measured = time_function(jax.jit(lambda a, b: a @ b), (jnp.ones((4, 8)), np.ones((8, 16), np.float32)))

    assert measured.flops == 2 * 4 * 8 * 16
    assert measured.bytes == 4 * (4 * 8 + 8 * 16 + 4 * 16)
    assert (measured.device_kind, measured.device_count) == (jax.devices()[0].device_kind, 1)


def test_a_plain_function_has_no_counts():
    measured = time_function(lambda x: x + 1, (jnp.ones(3),))

    assert measured.flops is None
    assert measured.bytes is None


def test_the_bytes_of_a_program_with_a_scan_are_not_known():
    scanned = jax.jit(lambda x: jax.lax.scan(lambda c, _: (c * 2, None), x, None, length=10)[0])

    measured = time_function(scanned, (jnp.ones(100),))

    assert measured.flops == pytest.approx(10 * 100, rel=0.2)
    assert measured.bytes is None


def counting_step(calls, **options):
    """A jitted step from 0 whose results say how many calls came before; what callbacks see of it goes to `calls`."""

    def step(count, amount):
        jax.debug.callback(lambda value: calls.append(int(value)), count)
        return count + amount, amount * 2

    return jax.jit(step, **options)


def test_a_donated_argument_is_fed_with_the_result_and_the_users_arrays_stay():
    calls, start = [], jnp.int32(0)

    time_function(counting_step(calls, donate_argnums=0), (start, jnp.int32(1)))

    jax.effects_barrier()
    assert sorted(calls) == list(range(1 + 3 * (1 + 3)))  # the first call; a warm-up and two rounds of one and three
    assert int(start) == 0


def test_what_is_not_donated_is_called_with_the_same_unless_asked_for():
    calls = []
    time_function(counting_step(calls), (jnp.int32(0), jnp.int32(1)))
    jax.effects_barrier()
    assert set(calls) == {0}

    calls.clear()
    time_function(counting_step(calls), (jnp.int32(0), jnp.int32(1)), carry=True)
    jax.effects_barrier()
    assert max(calls) == 12


def test_a_result_that_is_all_like_the_argument_is_fed_whole():
    step = jax.jit(lambda pair: (pair[0] + 1, pair[1]), donate_argnums=0)

    assert time_function(step, ((jnp.zeros(3), jnp.ones(3)),)).calls == 3


def test_a_plain_function_that_donates_inside_is_carried_on_request():
    inner = jax.jit(lambda params: params + 1, donate_argnums=0)
    params = jnp.zeros(3)

    assert time_function(lambda params: inner(params), (params,), carry=True).rounds == 2
    assert not params.is_deleted()


def test_a_plain_function_that_deletes_its_argument_is_told_to_carry():
    inner = jax.jit(lambda params: params + 1, donate_argnums=0)

    with pytest.raises(
        ValueError, match=r"argument 0 \(counted from 0\), which is gone after one call.*give carry=True"
    ):
        time_function(lambda params: inner(params), (jnp.zeros(3),))


def test_another_donated_argument_than_the_first_is_refused_and_the_users_arrays_stay():
    step = jax.jit(lambda params, state: (params, state + 1), donate_argnums=1)
    state = jnp.zeros(3)

    with pytest.raises(ValueError, match=r"<lambda> donates its argument 1 .*donates nothing else"):
        time_function(step, (jnp.zeros(3), state))
    assert not state.is_deleted()


def test_a_result_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"must be like its argument 0, float32\[3\]; it gave float32\[\]\. Return"):
        time_function(lambda x: x.sum(), (jnp.ones(3),), carry=True)


def test_carrying_takes_an_argument():
    with pytest.raises(ValueError, match=r"carry=True feeds argument 0 of <lambda>, but it is given none"):
        time_function(lambda: 1, (), carry=True)


def test_typed_keys_are_carried_too():
    step = jax.jit(lambda carry: (jax.random.split(carry[0])[0], carry[1]), donate_argnums=0)
    key = jax.random.key(0)

    assert time_function(step, ((key, jnp.ones(3)),)).calls == 3
    assert not key.is_deleted()


def test_devices_are_counted_once():
    assert devices_of({"a": jnp.ones(3), "b": jnp.ones(2), "c": 1}) == (jax.devices()[0].device_kind, 1)
    assert devices_of("nothing") == (None, 0)
