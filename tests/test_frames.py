"""Whose code a frame runs."""

import jax

import jaxloop
from jaxloop.frames import OF_JAX, OURS


def test_files_are_told_apart() -> None:
    assert jaxloop.__file__.startswith(OURS)
    assert jax.__file__.startswith(OF_JAX)
    assert not jaxloop.__file__.startswith(OF_JAX)
    assert not __file__.startswith((*OURS, *OF_JAX))
