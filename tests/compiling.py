"""Counting what XLA compiles."""

import collections
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax


@contextmanager
def counted_compiles() -> Iterator[collections.Counter[str]]:
    """Counts the programs that XLA compiles, by name."""
    counts: collections.Counter[str] = collections.Counter()

    def count(event: str, duration: float, **details: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            counts[details["fun_name"]] += 1

    jax.monitoring.register_event_duration_secs_listener(count)
    try:
        yield counts
    finally:
        jax.monitoring.unregister_event_duration_listener(count)


def steps_in(counts: collections.Counter[str]) -> dict[str, int]:
    return {name: count for name, count in counts.items() if "_step" in name}
