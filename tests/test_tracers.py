"""Tracers in what is static."""

import functools
import types
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from jaxloop.tracers import tracers_in


@dataclass
class Layer:
    table: Any

    def forward(self):
        return self.table


class Slotted:
    __slots__ = ("empty", "table")

    def __init__(self, table):
        self.table = table


@jax.tree_util.register_pytree_node_class
class Static(Layer):
    """A pytree without leaves, whose structure holds the table."""

    def tree_flatten(self):
        return (), self.table

    @classmethod
    def tree_unflatten(cls, table, leaves):
        return cls(table)


def closing_over(table):
    def function():
        return table

    return function


def defaulting_to(table):
    def function(table=table, *, other=None):
        return table, other

    return function


def defaulting_by_name_to(table):
    def function(*, table=table):
        return table

    return function


HOLDERS = {
    "itself": (lambda table: table, ""),
    "dict": (lambda table: {"a": {"b": table}}, "['a']['b']"),
    "list": (lambda table: [1, [table]], "[1][0]"),
    "attribute": (Layer, ".table"),
    "slot": (Slotted, ".table"),
    "closure": (closing_over, ".table"),
    "default": (defaulting_to, ".__defaults__[0]"),
    "keyword default": (defaulting_by_name_to, ".__kwdefaults__['table']"),
    "partial": (lambda table: functools.partial(closing_over, table=table), ".keywords['table']"),
    "method": (lambda table: Layer(table).forward, ".__self__.table"),
    "structure of a pytree": (lambda table: jax.tree.structure(Static(table)), "[0][1]"),
}


@pytest.mark.parametrize("name", HOLDERS)
def test_a_tracer_is_found_with_the_path_to_it(name):
    hold, path = HOLDERS[name]
    found = []

    def traced(table):
        found.extend((where, tracer is table) for where, tracer in tracers_in(hold(table)))
        return table

    jax.make_jaxpr(traced)(jnp.ones(3))
    assert found == [(path, True)]


def test_arrays_and_numbers_are_no_tracers():
    assert list(tracers_in({"a": jnp.ones(3), "b": (1, 2.0, "c", None), "d": closing_over(jnp.ones(3))})) == []


def test_what_holds_itself_is_looked_at_once():
    ring: dict[str, Any] = {}
    ring["self"] = ring
    assert list(tracers_in(ring)) == []


def test_a_cell_that_is_still_empty_holds_nothing():
    def outer():
        def inner():
            return later

        found = list(tracers_in(inner))
        later = 1
        return found, later

    assert outer()[0] == []


def test_globals_and_modules_are_not_followed(monkeypatch):
    module = types.ModuleType("module")

    def traced(table):
        module.table = table
        monkeypatch.setitem(globals(), "TABLE", table)
        assert list(tracers_in([module, lambda: TABLE])) == []  # noqa: F821 it is set above
        return table

    jax.make_jaxpr(traced)(jnp.ones(3))
