"""`save_weights`: the arrays of a model, written to a file."""

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxloop.engine.agreement import Agreement
from jaxloop.errors import WeightsError
from jaxloop.loop import Loop
from jaxloop.path_argument import path_argument
from jaxloop.placement import data_parallel
from jaxloop.placement.moving import whole
from jaxloop.plainly import plainly
from jaxloop.telling import warn
from jaxloop.weights.file import in_order, library, refuse_remote, write
from jaxloop.weights.fitting import key_implementation, raw_kind
from jaxloop.weights.header import Notes
from jaxloop.weights.naming import Named, weights_of

_WHERE = "save_weights"


@plainly
def save_weights(path: str | Path, model_or_loop: Any) -> None:
    """Writes the parameters and the state of a model to a safetensors file, exactly. Waits for the disk.

    Each leaf has one name, the dotted path by which its library knows it: `first.kernel` in nnx, `Dense_0.kernel` and
    `batch_stats.BatchNorm_0.mean` in linen, `layers.0.weight` in equinox, `mlp/linear.w` in haiku. The state of a
    `Model(apply, params, state)` has names that begin with `state.`. Arrays of every dtype are kept bit for bit; of a
    PRNG key, its bits. An array that is in two places is written once. Python numbers in an object, functions and
    strings are the model's own and are not written; a Python number in a dictionary or a list is, as an array.

    A file that is there is replaced once the new one is whole. On several processes each must call it. The first one
    writes, and the call returns when the file is there.

    Args:
      path: of the file. Its folder is made.
      model_or_loop: what `fit` takes, or any pytree of arrays. Of a loop, its trained model: for the average of `ema`
        give `loop.model.replace(params=loop.callback_state["ema"]["average"])`.

    Raises:
      WeightsError: it cannot be written; or two leaves have one name; or a leaf is no array of numbers.
      TypeError, ValueError: it holds no arrays.
      ModuleNotFoundError: safetensors is not installed.

    Example:
      >>> jl.save_weights("run/model.safetensors", loop)
      >>> model = jl.load_weights("run/model.safetensors", model)
    """
    file = path_argument(f"{_WHERE}: `path`", path, "run/model.safetensors")
    refuse_remote(path, _WHERE)
    library()
    named = weights_of(model_or_loop, _WHERE).named
    for each in named:
        if isinstance(each.leaf, jax.ShapeDtypeStruct):
            raise WeightsError(f"{_WHERE}: {each.name!r} has a shape and no numbers. Give a model that was made.")
    _tell_of_averages(model_or_loop)
    several = jax.process_count() > 1
    with Agreement(data_parallel()).together() if several else nullcontext():
        _save(file, named)


def _save(path: Path, named: list[Named]) -> None:
    held, shared = _once(named)
    leaves = {each.name: each.leaf for each in held}
    kinds = in_order({name: raw_kind(leaf) for name, leaf in leaves.items()})
    keys = {name: key_implementation(leaf) for name, leaf in leaves.items()}
    notes = Notes(keys={name: key for name, key in keys.items() if key is not None}, shared=shared)
    arrays = _wholes({name: leaves[name] for name in kinds})
    try:
        if jax.process_count() == 1 or jax.process_index() == 0:
            write(path, kinds, arrays, notes)
    finally:
        for _ in arrays:  # where an array is divided between processes, the others wait for this one
            pass


def _wholes(leaves: dict[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    """Each array whole on the host, one after the other, so that the host never holds all of them."""
    for name, leaf in leaves.items():
        yield name, whole(leaf if key_implementation(leaf) is None else jax.random.key_data(leaf))


def _once(named: list[Named]) -> tuple[list[Named], dict[str, str]]:
    """The leaves without those that are an earlier one, and under which name each of these is written."""
    first: dict[int, str] = {}
    held, shared = [], {}
    for each in named:
        name = first.setdefault(id(each.leaf), each.name) if isinstance(each.leaf, jax.Array | np.ndarray) else None
        if name is None or name == each.name:
            held.append(each)
        else:
            shared[each.name] = name
    return held, shared


def _tell_of_averages(given: Any) -> None:
    """Says that a loop was validated on other parameters than those that are written."""
    names = sorted(given.callback_state.get("evaluated_average", {})) if isinstance(given, Loop) else []
    if names:
        warn(
            f"{_WHERE}: validation ran on the average {names[0]!r}, and the trained parameters are written, which are "
            f"others. For the average give loop.model.replace(params=loop.callback_state[{names[0]!r}]['average']), "
            "for the trained ones loop.model.",
        )
