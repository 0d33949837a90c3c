"""A fingerprint of each array, made on its device: two sums of its bits that any changed bit changes.

An array is taken as words of 32 bits. Each word is multiplied by an odd weight, a hash of the word's place, and the
products are summed modulo 2**32. An odd number times a difference below 2**32 is never 0 there, so no changed word goes
unseen. The sum has no order, so the fingerprint does not depend on how the array is divided over devices. Weights by
place tell two words that changed places. Two sums with different weights make it unlikely that several changes cancel.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

_SEEDS = (0x9E3779B9, 0x85EBCA6B)


def snapshot(leaves: Sequence[jax.Array]) -> tuple[list[jax.Array], jax.Array]:
    """Copies of the arrays, in buffers of their own at the same shardings, and their fingerprints. Does not wait.

    Args:
      leaves: arrays of any shape and dtype, all on the same devices; no typed PRNG keys.

    Returns:
      The copies, and the fingerprints: uint32[n, 2].
    """
    shardings = tuple(leaf.sharding for leaf in leaves)
    with _no_checks():
        return _snapshot(shardings)(list(leaves))


def compile_snapshot(kinds: Sequence[jax.ShapeDtypeStruct]) -> None:
    """Compiles what `snapshot` runs for arrays of these kinds, so that it does not have to. Waits for the compiler.

    Args:
      kinds: each with the sharding of its array.
    """
    shardings = tuple(kind.sharding for kind in kinds)
    with _no_checks():
        _snapshot(shardings).lower(list(kinds)).compile()  # `jit` finds what was compiled, by kinds and shardings


def fingerprints(leaves: Sequence[jax.Array]) -> jax.Array:
    """The fingerprints of the arrays: uint32[n, 2]. Does not wait."""
    return _fingerprints(list(leaves))


@functools.lru_cache(maxsize=16)
def _snapshot(shardings: tuple[jax.sharding.Sharding, ...]):
    """The program for arrays that lie at these shardings; `jit` keeps it by their shapes."""

    def snapshot(leaves: list[jax.Array]) -> tuple[list[jax.Array], jax.Array]:
        return [jnp.copy(leaf) for leaf in leaves], _stacked(leaves)

    return jax.jit(snapshot, out_shardings=(list(shardings), None))


@jax.jit
def _fingerprints(leaves: list[jax.Array]) -> jax.Array:
    return _stacked(leaves)


def _no_checks():
    """`jax_debug_nans` looks into what a program gives, and a NaN in a saved array is no fault of the copy."""
    return jax.debug_nans(False)


def _stacked(leaves: list[jax.Array]) -> jax.Array:
    if not leaves:
        return jnp.zeros((0, 2), jnp.uint32)
    return jnp.stack([_fingerprint(leaf) for leaf in leaves])


def _fingerprint(leaf: jax.Array) -> jax.Array:
    words = _words(leaf)
    place = _places(words.shape)
    sums = [jnp.sum(words * (_mixed(place, seed) | jnp.uint32(1)), dtype=jnp.uint32) for seed in _SEEDS]
    return jnp.stack(sums)


def _words(leaf: jax.Array) -> jax.Array:
    """The bits of an array as uint32, one or more for each element. Axes stay, so devices exchange none."""
    if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
        return jnp.stack([_words(leaf.real), _words(leaf.imag)], axis=leaf.ndim)
    if leaf.dtype == jnp.bool_:
        return leaf.astype(jnp.uint32)
    bits = jnp.finfo(leaf.dtype).bits if jnp.issubdtype(leaf.dtype, jnp.floating) else jnp.iinfo(leaf.dtype).bits
    if bits == 64:
        return jax.lax.bitcast_convert_type(leaf, jnp.uint32)  # with a new last axis of two words
    if bits >= 8 or jnp.issubdtype(leaf.dtype, jnp.floating):
        leaf = jax.lax.bitcast_convert_type(leaf, f"uint{bits}")
    elif jnp.issubdtype(leaf.dtype, jnp.signedinteger):
        leaf = jax.lax.bitcast_convert_type(leaf.astype(jnp.int8), jnp.uint8)
    return leaf.astype(jnp.uint8).astype(jnp.uint32) if bits < 8 else leaf.astype(jnp.uint32)


def _places(shape: tuple[int, ...]) -> jax.Array:
    """The linear position of each word: uint32, modulo 2**32."""
    place, stride = jnp.zeros(shape, jnp.uint32), 1
    for axis in reversed(range(len(shape))):
        place += jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * jnp.uint32(stride % 2**32)
        stride *= shape[axis]
    return place


def _mixed(place: jax.Array, seed: int) -> jax.Array:
    """A hash of each position: the finalizer of MurmurHash3, https://github.com/aappleby/smhasher."""
    mixed = place + jnp.uint32(seed)
    mixed = (mixed ^ (mixed >> 16)) * jnp.uint32(0x85EBCA6B)
    mixed = (mixed ^ (mixed >> 13)) * jnp.uint32(0xC2B2AE35)
    return mixed ^ (mixed >> 16)
