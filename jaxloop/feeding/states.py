"""States of other libraries' loaders, as JSON: where a loader stood, without reading all before it again."""

# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# What other libraries give leaves types open here; all else is checked strictly.

import base64
import random
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np


def state_of(loader: Any, rest: Iterator[Any]) -> dict[str, Any] | None:
    """Where a loader stands, or None if no state of it is known to be exact, or if it is not JSON.

    Only libraries are asked whose states were found to bring back every batch that comes after, those of later epochs
    too. A method of the right name does not say so: a state may leave out a shuffle's buffer or a generator.

    Args:
      loader: what was iterated.
      rest: its iterator.
    """
    try:
        if _is_of("grain", loader) and _is_of("grain", rest) and hasattr(rest, "set_state"):
            return {"library": "grain", "state": encoded(rest.get_state())}  # pyright: ignore[reportAttributeAccessIssue]
        if _is_of("torchdata", loader) and hasattr(loader, "load_state_dict"):
            return _of_torchdata(loader)
    except Exception:  # a state is asked for in case it is needed: a run that can do without must not end by it
        return None
    return None


def restored(loader: Any, state: Mapping[str, Any]) -> Iterator[Any]:
    """The iterator of a loader that stands where the state was taken.

    Raises:
      LookupError: it is a state of another library's loader.
    """
    if state["library"] == "grain":
        rest = iter(loader)
        if not (_is_of("grain", rest) and hasattr(rest, "set_state")):
            raise LookupError("grain")
        rest.set_state(decoded(state["state"]))  # pyright: ignore[reportAttributeAccessIssue]
        return rest
    if not _is_of("torchdata", loader):
        raise LookupError("torchdata")
    loader.load_state_dict(decoded(state["state"]))
    rest = iter(loader)
    if loader.generator is not None:  # the loader draws more from it than its state remembers
        loader.generator.set_state(decoded(state["generator"]))
    return rest


def random_sources(loader: Any) -> tuple[Any, ...]:
    """What a loader of torch or torchdata draws its order from. Two that share one have no state each of their own."""
    if not (_is_of("torch", loader) or _is_of("torchdata", loader)):
        return ()
    found = (loader, getattr(loader, "generator", None), getattr(getattr(loader, "sampler", None), "generator", None))
    return tuple(part for part in found if part is not None)


def random_states(state: Mapping[str, Any]) -> Any:
    """Python's, NumPy's and torch's global random states, to be compared, where samples are read in this thread.

    Returns:
      None for grain, which reads samples in threads of its own.
    """
    if state["library"] == "grain":
        return None
    numpy: Any = np.random.get_state()  # noqa: NPY002 what a user's transforms may draw from
    torch: Any = sys.modules.get("torch")
    return random.getstate(), bytes(numpy[1]), numpy[2:], torch and torch.get_rng_state().numpy().tobytes()


def _of_torchdata(loader: Any) -> dict[str, Any] | None:
    """The state of a StatefulDataLoader; None if it does not bring back what is drawn for later epochs."""
    if loader.generator is None and loader.num_workers:
        return None  # workers are seeded from torch's global random state
    if hasattr(loader.dataset, "__getitem__"):
        samplers = (loader.sampler, loader.batch_sampler)
        if not all(sampler is None or _is_of("torch", sampler) or _is_of("torchdata", sampler) for sampler in samplers):
            return None  # a sampler of one's own may draw an order that its state does not hold
    elif not hasattr(loader.dataset, "load_state_dict"):
        return None
    return {
        "library": "torchdata",
        "state": encoded(loader.state_dict()),
        "generator": None if loader.generator is None else encoded(loader.generator.get_state()),
    }


def _is_of(library: str, thing: Any) -> bool:
    return type(thing).__module__.split(".")[0] == library


class NotJSONError(TypeError):
    """A state holds what is not put into JSON."""


def encoded(value: Any) -> Any:
    """A value as JSON, without pickle; it shares nothing with the value.

    Raises:
      NotJSONError: it holds anything but numbers, texts, bytes, lists, tuples, dicts and arrays.
    """
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, bytes):
        return {"is": "bytes", "value": _text(value)}
    if isinstance(value, list):
        return [encoded(part) for part in value]
    if type(value) is tuple:
        return {"is": "tuple", "value": [encoded(part) for part in value]}
    if isinstance(value, Mapping):
        return {"is": "dict", "value": [[encoded(key), encoded(part)] for key, part in value.items()]}
    if isinstance(value, (np.ndarray, np.generic)) and not value.dtype.hasobject:
        return _array("array", np.asarray(value))
    torch: Any = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        tensor: Any = value
        return _array("tensor", tensor.detach().cpu().numpy())
    raise NotJSONError(f"a loader's state must be of numbers, texts, bytes and arrays, got {type(value).__qualname__}.")


def decoded(value: Any) -> Any:
    """The value that `encoded` was given."""
    if isinstance(value, list):
        return [decoded(part) for part in value]
    if not isinstance(value, dict):
        return value
    kind, held = value["is"], value["value"]
    if kind == "bytes":
        return base64.b64decode(held)
    if kind == "tuple":
        return tuple(decoded(part) for part in held)
    if kind == "dict":
        return {decoded(key): decoded(part) for key, part in held}
    array = np.frombuffer(base64.b64decode(held), np.dtype(value["dtype"])).reshape(value["shape"]).copy()
    if kind == "array":
        return array
    import torch  # pyright: ignore[reportMissingImports]  # it was a tensor of torch

    return torch.from_numpy(array)


def _array(kind: str, array: np.ndarray) -> dict[str, Any]:
    return {"is": kind, "dtype": array.dtype.str, "shape": list(array.shape), "value": _text(array.tobytes())}


def _text(held: bytes) -> str:
    return base64.b64encode(held).decode("ascii")
