"""Weights from files in the public safetensors format, which are put into modules by name."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from flax import nnx

SHOWN = 4


def read_tensors(path: str | Path) -> dict[str, np.ndarray]:
    """Every tensor of a safetensors file, by its name in the file.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is not a safetensors file, or is cut off.
      ModuleNotFoundError: safetensors is not installed.
    """
    try:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "Reading a checkpoint needs safetensors, which is not installed. Run pip install '.[examples]'."
        ) from error
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such checkpoint. Give the path of a .safetensors file.")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(
            f"{path}: it is not a whole safetensors file ({error}). Get it again, or save the weights in that format."
        ) from error


def fill(module: nnx.Module, tensors: Mapping[str, np.ndarray], *, source: str | Path) -> None:
    """Replaces the module's weights and batch statistics by `tensors`: all of them, or none.

    Args:
      module: the module to fill. Each weight keeps its dtype.
      tensors: tensors of the weights' shapes, by path in the module, such as `"blocks.0.attention.query.kernel"`.
      source: where the tensors come from, for the message.

    Raises:
      ValueError: a weight has no tensor, a tensor has no weight, or their shapes differ: the checkpoint has another
        architecture or size.

    Example:
      >>> fill(model, {"dense.kernel": kernel, "dense.bias": bias}, source="model.safetensors")
    """
    weights = {
        ".".join(map(str, path)): variable
        for path, variable in nnx.to_flat_state(nnx.state(module, (nnx.Param, nnx.BatchStat)))
    }
    faults = [
        *_listed("it lacks", weights.keys() - tensors.keys()),
        *_listed("the model has no", tensors.keys() - weights.keys()),
        *_listed(
            "shapes differ:",
            (
                f"{name} {list(tensors[name].shape)} for {list(weights[name].shape)}"
                for name in weights.keys() & tensors.keys()
                if tensors[name].shape != weights[name].shape
            ),
        ),
    ]
    if faults:
        raise ValueError(
            f"{source}: it does not fit {type(module).__name__}: {'; '.join(faults)}. It is of another architecture or "
            "size; give the configuration that it was trained with."
        )
    for name, variable in weights.items():
        variable[...] = tensors[name]


def _listed(what: str, names: Iterable[str]) -> list[str]:
    """One phrase with the first few of `names`; nothing if there are none."""
    ordered = sorted(names)
    if not ordered:
        return []
    more = f" and {len(ordered) - SHOWN} more" if len(ordered) > SHOWN else ""
    return [f"{what} {', '.join(ordered[:SHOWN])}{more}"]
