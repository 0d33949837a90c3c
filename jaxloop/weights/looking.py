"""`weights_in`: what a file of weights holds."""

from pathlib import Path

import jax

from jaxloop.plainly import plainly
from jaxloop.weights.file import Kind, WeightsFile


@plainly
def weights_in(path: str | Path) -> dict[str, jax.ShapeDtypeStruct]:
    """Shape and dtype of each array in a safetensors file, by name. Reads only its header.

    Args:
      path: of the file, from jaxloop or from anywhere. Of a typed PRNG key it has the bits, which are uint32.

    Raises:
      FileNotFoundError: there is no such file.
      WeightsError: it is no whole safetensors file, or an array has a dtype that NumPy does not have.
      ModuleNotFoundError: safetensors is not installed.

    Example:
      >>> jl.weights_in("model.safetensors")["first.kernel"]
      ShapeDtypeStruct(shape=(4, 3), dtype=float32)
    """
    file = WeightsFile(path, "weights_in")
    return {name: _shaped(file, name, kind) for name, kind in sorted(file.kinds.items())}


def _shaped(file: WeightsFile, name: str, kind: Kind | str) -> jax.ShapeDtypeStruct:
    if isinstance(kind, str):
        raise file.refused(name)
    return jax.ShapeDtypeStruct(kind.shape, kind.dtype)
