"""Identity: what makes data the same data, as far as it can be told without reading them."""

# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# JAX, and what users give, leave types open here; all else is checked strictly.

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from jaxloop.data import Batches, EmptyBatches, NonuniformTrainingEpochs, TrainingEpochs
from jaxloop.data.derived import CutEpochs, MappedEpochs
from jaxloop.data.repeat import length_of, repeated
from jaxloop.feeding.checksums import first_batch_mark as first_batch_mark

#: What loaders of known libraries call what decides their order: the attribute, and the name that it is told by.
_NAMES = (
    *(("batch_size", "batch_size"), ("seed", "seed"), ("_seed", "seed"), ("drop_last", "drop_last")),
    *(("num_records", "samples"), ("_num_records", "samples"), ("_seed_rng_seed", "seed")),
    *(("_batch_size", "batch_size"), ("_shuffle", "shuffle")),
)


def identity_of(data: Any) -> dict[str, Any]:
    """What makes data the same data: kind, lengths, batch size, seed. No batch is read. It goes through JSON unchanged.

    Args:
      data: epochs or batches, as `TrainingLoop` takes them; None where there are none.
    """
    if data is None:
        return {"kind": "none"}
    if isinstance(data, MappedEpochs):
        return identity_of(data.epochs)
    if isinstance(data, CutEpochs):
        return {"kind": "every", "batch_count": data.batch_count, "of": identity_of(data.epochs)}
    if isinstance(data, (TrainingEpochs, NonuniformTrainingEpochs)):
        return _of_epochs(data)
    if isinstance(data, EmptyBatches):
        return {"kind": "steps", "batches": len(data)}
    if isinstance(data, Batches):
        return {"kind": "Batches", "samples": data.sample_count, "batch_size": data.batch_size, "batches": len(data)}
    if (inner := repeated(data)) is not None:
        batches, count = inner
        if isinstance(batches, EmptyBatches):
            return identity_of(batches)
        return {"kind": "repeat", "batch_count": count, "of": identity_of(batches)}
    if isinstance(data, (list, tuple)):
        return _of_list(data)
    return _of_loader(data)


def differences(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between the identity of a checkpoint's data and that of today's, a line each; none if nothing."""
    before, after = dict(_flat(saved)), dict(_flat(now))
    if before.get("kind") != after.get("kind"):  # nothing else can be compared
        before, after = {"kind": before.get("kind")}, {"kind": after.get("kind")}
    different = [name for name in dict.fromkeys((*before, *after)) if _told(before, name) != _told(after, name)]
    lines = [
        f"{name.replace('of.', '')}: the checkpoint's run had {_told(before, name)}, this one has {_told(after, name)}"
        for name in different
        if name != "first_batch"
    ]
    if different == ["first_batch"]:  # else the others say why
        lines.append(
            "the first batch is another one than the run's. Seed the loader and what changes its samples, so that each "
            "process is given the same: for torch generator=torch.Generator().manual_seed(0)"
        )
    return lines


def _flat(identity: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in identity.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value


def _told(flat: Mapping[str, Any], name: str) -> str:
    return str(flat[name]) if name in flat else "none"


def _of_epochs(epochs: TrainingEpochs | NonuniformTrainingEpochs) -> dict[str, Any]:
    found: dict[str, Any] = {
        "kind": type(epochs).__name__,
        "samples": epochs.sample_count,
        "batch_size": int(epochs.batch_size),
        "seed": int(epochs.seed),
    }
    if isinstance(epochs, NonuniformTrainingEpochs):
        group = epochs.batches_per_sort
        found["batches_per_sort"] = None if group is None else int(group)
        found["lengths"] = None if epochs.lengths is None else [int(length) for length in epochs.lengths]
    return found


def _of_list(items: list[Any] | tuple[Any, ...]) -> dict[str, Any]:
    """Of a list of batches, or of epochs: a batch is an array, a tuple or a mapping; an epoch has a length too."""
    first = items[0] if items else None
    if first is None or isinstance(first, (tuple, Mapping)) or hasattr(first, "shape") or length_of(first) is None:
        arrays = [leaf for leaf in jax.tree.leaves(first) if getattr(leaf, "shape", ())]
        return {"kind": "list", "batches": len(items)} | ({"batch_size": arrays[0].shape[0]} if arrays else {})
    lengths = [length_of(item) for item in items]
    return {"kind": "list of epochs", "epochs": len(items), "batches": lengths, "first": identity_of(first)}


def _of_loader(loader: Any) -> dict[str, Any]:
    kind = type(loader)
    found: dict[str, Any] = {"kind": f"{kind.__module__.split('.')[0]}.{kind.__qualname__}"}
    if (length := length_of(loader)) is not None:
        found["batches"] = length
    found |= _read_off(loader)
    for part in ("sampler", "_sampler"):
        for name, value in _read_off(getattr(loader, part, None)).items():
            found.setdefault(name, value)
    for operation in getattr(loader, "_operations", ()):  # grain's loader makes batches by an operation
        for name, value in _read_off(operation).items():
            found.setdefault(name, value)
    samples = length_of(getattr(loader, "dataset", None))
    if samples is not None:
        found["samples"] = samples
    seed: Any = getattr(getattr(loader, "generator", None), "initial_seed", None)
    if callable(seed):
        found["seed"] = int(str(seed()))
    for parent in _parents(loader):
        for name, value in _read_off(parent).items():
            found.setdefault(name, value)
    return found


def _read_off(loader: Any) -> dict[str, Any]:
    """What its attributes tell in plain numbers."""
    if not type(loader).__module__.startswith(("torch", "grain")):
        return {}  # what another's attributes mean is not known
    found: dict[str, Any] = {}
    for attribute, name in _NAMES:
        value = getattr(loader, attribute, None)
        if isinstance(value, (bool, int, np.integer)):
            found.setdefault(name, bool(value) if isinstance(value, bool) else int(value))
    return found


def _parents(data: Any) -> Iterator[Any]:
    """The data sets that one of grain's was made from, the nearest first."""
    for parent in getattr(data, "_parents", ()) if type(data).__module__.startswith("grain") else ():
        yield parent
        yield from _parents(parent)
