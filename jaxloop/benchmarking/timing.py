"""Timing of a function: one call, and many calls in a row, each with the last one's result if that is necessary."""

import operator
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxloop.benchmarking.costs import costs_of
from jaxloop.benchmarking.measurement import Measurement, Quartiles

_ROUND_SECONDS = 0.2
#: The most calls in a round. Without a carry all results are kept until the end of the round: there must not be many.
_MOST_CALLS, _MOST_CARRIED_CALLS = 32, 10_000


def time_function(
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    *,
    calls: int | None,
    rounds: int,
    warmup: int,
    carry: bool | None,
    examples: int | None,
) -> Measurement:
    """The times of the calls `function(*arguments)`, and their costs if it is jitted; see `jaxloop.benchmark`."""
    traced: Any = function.trace(*arguments) if hasattr(function, "trace") else None  # type: ignore[attr-defined]
    donates = traced is not None and any(info.donated for info in jax.tree.leaves(traced.lower().args_info))
    carry = donates if carry is None else carry
    own = _copied(arguments) if carry or donates else arguments
    result = jax.block_until_ready(function(*own))
    device_kind, device_count = devices_of(result)
    call = _caller(function, own, result, carry)
    del result
    most = _MOST_CARRIED_CALLS if carry else _MOST_CALLS
    calls = calls or max(1, min(most, int(_ROUND_SECONDS / max(1e-9, _timed(call, 1)[1]))))
    for _ in range(warmup):
        _timed(call, 1)
        _timed(call, calls)
    timed = [(*_timed(call, 1), _timed(call, calls)[1] / calls) for _ in range(rounds)]
    dispatch, latency, seconds = map(Quartiles.of, zip(*timed, strict=True))
    flops, traffic = costs_of(traced)
    return Measurement(
        name=getattr(function, "__name__", type(function).__name__),
        rounds=rounds,
        calls=calls,
        seconds=seconds,
        dispatch_seconds=dispatch,
        latency_seconds=latency,
        examples=examples,
        flops=flops,
        bytes=None if traffic is None else traffic * max(1, device_count),
        device_kind=device_kind,
        device_count=device_count,
    )


def _timed(call: Callable[[int], Any], count: int) -> tuple[float, float]:
    """The seconds until `count` calls have come back, and until all their results are there."""
    start = time.perf_counter()
    results = call(count)
    returned = time.perf_counter()
    jax.block_until_ready(results)
    return returned - start, time.perf_counter() - start


def _caller(function: Callable[..., Any], arguments: tuple[Any, ...], result: Any, carry: bool) -> Callable[[int], Any]:
    """A function that makes a number of calls, and gives the results to wait for.

    Args:
      function: was called once already, with `arguments`, and gave `result`.
      arguments, result: the arguments and the result of that call.
      carry: whether the result goes into the next call.

    Raises:
      ValueError: the call has deleted an argument that is not carried, or the result cannot be carried.
    """
    name = getattr(function, "__name__", type(function).__name__)
    gone = [place for place, argument in enumerate(arguments) if _is_deleted(argument) and not (carry and place == 0)]
    if gone:
        raise ValueError(
            f"benchmark: {name} donates its argument {gone[0]} (counted from 0), which is gone after one call. Only "
            "argument 0 can be replaced, by its result: give carry=True, or a function that donates nothing else."
        )
    if not carry:
        return lambda count: [function(*arguments) for _ in range(count)]
    if not arguments:
        raise ValueError(f"benchmark: carry=True feeds argument 0 of {name}, but it is given none. Leave `carry` out.")
    pick = _pick(name, arguments[0], result)
    held = [pick(result)]

    def call(count: int) -> Any:
        results = None
        for _ in range(count):
            results = function(held[0], *arguments[1:])
            held[0] = pick(results)
        return results

    return call


def _pick(name: str, argument: Any, result: Any) -> Callable[[Any], Any]:
    """A function that takes the next argument 0 from a result: the whole result, or the first item of a tuple."""
    expected = _kinds(argument)
    if _kinds(result) == expected:
        return lambda result: result
    if isinstance(result, (tuple, list)) and result and _kinds(result[0]) == expected:
        return operator.itemgetter(0)
    raise ValueError(
        f"benchmark: with carry, the result of {name}, or the first of a tuple of results, must be like its argument "
        f"0, {_shown(argument)}; it gave {_shown(result)}. Return what the next call takes first."
    )


def _kinds(tree: Any) -> Any:
    leaves, structure = jax.tree.flatten(tree)
    return structure, [(jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves]


def _shown(tree: Any) -> str:
    shapes = jax.tree.map(lambda leaf: f"{jnp.result_type(leaf).name}{list(jnp.shape(leaf))}", tree)
    return f"{shapes}"[:200]


def _copied(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.copy() if isinstance(leaf, jax.Array) else leaf, tree)


def _is_deleted(tree: Any) -> bool:
    return any(isinstance(leaf, jax.Array) and leaf.is_deleted() for leaf in jax.tree.leaves(tree))


def devices_of(tree: Any) -> tuple[str | None, int]:
    """The kind and the number of the devices that hold the arrays of `tree`; None and 0 if it has no array."""
    arrays = [leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.Array)]
    devices: set[Any] = set().union(*(array.sharding.device_set for array in arrays))
    return (next(iter(devices)).device_kind, len(devices)) if devices else (None, 0)
