"""Dividing: which rows of a batch are whose, where several devices or several processes have it together."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# JAX, and what users give, leave types open here; all else is checked strictly.

import functools
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from jax.sharding import PartitionSpec, Sharding

from jaxloop.data.batches import Rows
from jaxloop.feeding.contract import Contract
from jaxloop.feeding.slots import ChunkSpec, shardings_of_chunk
from jaxloop.feeding.specification import rows_of
from jaxloop.placement import Placement


@dataclass(frozen=True)
class Share:
    """The rows of each batch that the devices of this process have.

    Attributes:
      parts: into how many parts of one size the rows are divided.
      mine: which parts they are, in order.
      others_too: whether other processes have some of them too, as where a model is divided over processes.
      even: whether all processes have as many.
    """

    parts: int
    mine: tuple[int, ...]
    others_too: bool = False
    even: bool = True

    @property
    def shares(self) -> int:
        """How many shares like this one make a batch."""
        return self.parts // len(self.mine)

    def rows(self, size: int) -> Rows:
        """Which rows of a batch of `size` they are: a range where they are one."""
        part, first = size // self.parts, self.mine[0]
        if self.mine == tuple(range(first, first + len(self.mine))):
            return slice(first * part, (first + len(self.mine)) * part)
        return np.concatenate([np.arange(one * part, (one + 1) * part) for one in self.mine])

    def place(self, row: int, size: int) -> int:
        """Where a row that begins a part stands among this process's rows, in a batch of `size`."""
        part = size // self.parts
        return self.mine.index(row // part) * part + row % part


@functools.lru_cache(maxsize=64)
def share_of(placement: Placement) -> Share | None:
    """The share of this process; None if all devices are its own.

    Raises:
      ValueError: it has no device in the mesh.
    """
    if not placement.several_processes:
        return None
    assert placement.batch_spec is not None
    sharding = placement.sharded(PartitionSpec(*placement.batch_spec[:1]))
    here, found = jax.process_index(), dict[int, set[int]]()
    for device, index in sharding.devices_indices_map((placement.parts,)).items():
        assert index is not None
        found.setdefault(device.process_index, set()).add(index[0].start or 0)
    mine = found.get(here)
    if mine is None:
        raise ValueError(
            f"on: process {here} has no device in the mesh, {placement.describe()}. Every process that "
            "runs the script must have one: make the mesh of jax.devices()."
        )
    others_too = any(not mine.isdisjoint(others) for process, others in found.items() if process != here)
    return Share(placement.parts, tuple(sorted(mine)), others_too, len(set(map(len, found.values()))) == 1)


def divided(contract: Contract, placement: Placement, *, shared: bool) -> Contract:
    """The contract of a phase where its batches are divided over the devices of a placement.

    Args:
      contract: made by the first batch that was read.
      placement: where the batches go.
      shared: whether what each process reads is its share of a batch, and not the whole batch.

    Raises:
      ValueError: the batches cannot be divided so; the message has the sum.
    """
    if placement.single:
        return contract
    rows, parts = rows_of(contract.first.abstract), placement.parts
    if shared:
        contract = _of_all(contract, placement, rows)
        rows = rows_of(contract.first.abstract)
    if contract.short == "filled":
        return replace(contract, parts=parts)
    check_divides(contract, placement, rows)
    return contract


def check_divides(contract: Contract, placement: Placement, rows: int | None) -> None:
    """Refuses a batch of examples that does not divide into as many parts as the placement has.

    A batch whose arrays share no axis of examples passes: what cannot be divided lies whole on each device.

    Raises:
      ValueError: as said.
    """
    parts = placement.parts
    if rows is None or rows % parts == 0:
        return
    over = f"{parts} devices" if parts == placement.mesh.size else f"the {parts} parts of the mesh"
    if contract.shares is not None:
        rows, parts = rows // contract.shares, parts // contract.shares
        over = f"the {parts} parts that this process has"
    whole, left = divmod(rows, parts)
    sizes = " or ".join(str(count * parts) for count in (whole, whole + 1) if count)
    raise ValueError(
        f"{contract.where}: a batch of {rows} examples does not divide over {over}: {rows} = {parts} x {whole} + "
        f"{left}; give a batch size of {sizes}."
    )


def _of_all(contract: Contract, placement: Placement, rows: int | None) -> Contract:
    """The contract of the batches that the shares of all processes make, from that of one share."""
    share, where = share_of(placement), contract.where
    assert share is not None
    if not share.even or share.parts % len(share.mine):
        raise ValueError(
            f"{where}: the batches of a loader are shares of one size, but this process has {len(share.mine)} of the "
            f"{share.parts} parts of a batch, and others have more or fewer. Make a mesh with as many devices of each "
            "process, or give TrainingEpochs or in_batches, of which each process reads the whole batch."
        )
    if rows is None:
        raise ValueError(
            f"{where}: in several processes the batches of a loader are put together, so their arrays must share one "
            "axis of examples, but their first axes differ. Give batches of one axis, or TrainingEpochs or in_batches, "
            "of which each process reads the whole batch."
        )
    if len(contract.lengths) > 1:
        raise ValueError(
            f"{where}: the batches of a loader have the lengths {contract.lengths}, but in several processes all must "
            "be of one length at a time. Give TrainingEpochs or in_batches with `lengths`, which pad the whole batch."
        )
    first = contract.first.resized(rows * share.shares)
    return replace(contract, first=first, shares=share.shares, on_recompile="raise")


class Sender:
    """Sends the batches of dispatches to the devices. On a CPU of one process programs take NumPy's arrays in place.

    Args:
      placement: where they go.
      share: what of each batch it is given; None if it is the whole.
      only_global: whether each array must span the processes already.
    """

    def __init__(self, placement: Placement, share: Share | None = None, *, only_global: bool = False):
        self._placement, self._share, self._only_global = placement, share, only_global
        self._spec: ChunkSpec | None = None
        self._places: list[tuple[tuple[int, ...], Sharding]] = []

    def __call__(self, spec: ChunkSpec, batch: Any) -> Any:
        """The batches of a dispatch on their way. Transfers start now."""
        placement = self._placement
        if placement.single:
            return batch if placement.is_cpu else jax.device_put(batch, placement.device)
        if spec is not self._spec and spec != self._spec:
            shapes = (leaf.shape for leaf in jax.tree.leaves(spec.abstract))
            self._places = list(zip(shapes, shardings_of_chunk(placement, spec), strict=True))
            self._spec = spec
        leaves, tree = jax.tree.flatten(batch)
        axis = 1 if spec.steps > 1 else 0
        sent = [self._sent(leaf, *place, axis) for leaf, place in zip(leaves, self._places, strict=True)]
        return tree.unflatten(sent)

    def _sent(self, leaf: Any, shape: tuple[int, ...], sharding: Sharding, axis: int) -> Any:
        placement = self._placement
        if not placement.several_processes:
            return leaf if placement.is_cpu and isinstance(leaf, np.ndarray) else jax.device_put(leaf, sharding)
        if spans_processes(leaf):
            return jax.device_put(leaf, sharding)
        if self._only_global:
            raise ValueError(
                "batches: the arrays of the first batch lie on the devices of all processes, but here is one that lies "
                "on this process only. Give all batches in one of these two forms."
            )
        here, size = np.asarray(leaf), shape[axis]
        here = here.astype(jax.dtypes.canonicalize_dtype(here.dtype), copy=False)
        if self._share is None:
            return jax.make_array_from_callback(shape, sharding, here.__getitem__)
        place = functools.partial(self._share.place, size=size)

        def part(index: Any) -> np.ndarray:
            rows = index[axis]
            start, stop = rows.start or 0, size if rows.stop is None else rows.stop
            first = place(start)
            return here[(*index[:axis], slice(first, first + stop - start), *index[axis + 1 :])]

        return jax.make_array_from_callback(shape, sharding, part)


def spans_processes(leaf: Any) -> bool:
    """Whether it is an array of which this process has only a part."""
    return isinstance(leaf, jax.Array) and not leaf.is_fully_addressable
