"""`Placement`: the devices of a run, and how its arrays lie on them."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# JAX, and what users give, leave types open here; all else is checked strictly.

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxloop.chips import peak_flops
from jaxloop.placement.divisions import check_axes, check_divides, parts_of, said
from jaxloop.placement.moving import copied_to, copied_to_device, copied_within, from_host, whole

if TYPE_CHECKING:
    Device = Any  # jax.Device is made by an extension module, which type checkers cannot look into
else:
    Device = jax.Device

#: How a parameter is divided: given its path, such as `"Dense_0/kernel"`, and the leaf, or its shape and dtype.
Rule = Callable[[str, Any], PartitionSpec]
_RULES = "Map it to one of them by `flax.linen.logical_axis_rules`, around the fit"


def replicate(path: str, leaf: Any) -> PartitionSpec:
    """The rule by which each device holds all of each parameter."""
    return PartitionSpec()


@dataclass(frozen=True)
class Placement:
    """The devices of a run, and how its arrays lie on them. Equal placements share their programs.

    One device is a placement like any other, `Placement(device)`.

    Attributes:
      mesh: the devices, by named axes; one device is taken as a mesh of one. `jax.sharding.Mesh(devices, names)` makes
        a mesh. `jax.make_mesh` needs `axis_types=(AxisType.Auto,) * n` for it, since its axes are Explicit otherwise.
      rule: `rule(path, leaf)` gives the `PartitionSpec` of a parameter, or of an array of the model's state: of its
        path, such as `"Dense_0/kernel"`, and the array, or its shape and dtype. Partitioning metadata of a flax module
        comes before it. The optimizer's state, and what callbacks remember, is divided as the parameter
        whose path and shape it has. It must be hashable; equal rules share programs.
      batch_spec: how the arrays of a batch are divided. Its first entry is for the examples, the others for the axes
        that follow. None for the mesh's first axis.
      gather: whether each step gathers all parameters first, so that devices divide only the batch. XLA may
        otherwise divide the work of a layer as its parameters are.

    Raises:
      ValueError: the mesh has an Explicit axis, or `batch_spec` names an axis that it does not have.

    Example:
      >>> mesh = jax.sharding.Mesh(np.array(jax.devices()).reshape(-1, 1), ("data", "model"))  # or (2, 4)
      >>> def rule(path, leaf):
      ...     return PartitionSpec(None, "model") if leaf.ndim == 2 else PartitionSpec()
      >>> loop, history = training_loop.fit(model, epochs=12, on=jl.Placement(mesh, rule))
    """

    mesh: Any
    rule: Rule = replicate
    batch_spec: PartitionSpec | None = None
    gather: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.mesh, Device):
            object.__setattr__(self, "mesh", Mesh(np.array([self.mesh]), ("data",)))
        if AxisType.Explicit in self.mesh.axis_types:
            names = ", ".join(map(str, self.mesh.axis_names))
            raise ValueError(
                f"Placement: the axes of the mesh must be Auto, but some of {names} are Explicit. Write "
                "jax.sharding.Mesh(devices, names), or jax.make_mesh(..., axis_types=(AxisType.Auto,) * n)."
            )
        if self.batch_spec is None:
            object.__setattr__(self, "batch_spec", PartitionSpec(self.mesh.axis_names[0]))
        check_axes("Placement: batch_spec", self.batch_spec, self.mesh)

    def __hash__(self) -> int:
        return self._hash

    @functools.cached_property
    def _hash(self) -> int:
        # Not that of the mesh, which another equal mesh has only while this one lives.
        devices = tuple((device.platform, device.id) for device in self.mesh.devices.flat)
        return hash((devices, self.mesh.axis_names, str(self.batch_spec), self.rule, self.gather))

    @functools.cached_property
    def device(self) -> Device:
        """The first device of this process; of any process, if this one has none of them."""
        devices, here = list(self.mesh.devices.flat), jax.process_index()
        return next((device for device in devices if device.process_index == here), devices[0])

    @functools.cached_property
    def platform(self) -> str:
        """`"cpu"`, `"gpu"` or `"tpu"`."""
        return self.device.platform

    @property
    def is_cpu(self) -> bool:
        """Whether the host's own memory is the devices'.

        If it is, a program takes NumPy arrays in place, and no transfer is needed. No thread reads ahead, since it
        would take time from the same cores. And convolutions inside a loop run slowly, unless their axes are in one
        order.
        """
        return self.platform == "cpu"

    @functools.cached_property
    def single(self) -> bool:
        """Whether it is one device."""
        return self.mesh.size == 1

    @functools.cached_property
    def peak_flops(self) -> float | None:
        """The largest FLOP/s of all devices together; None if it is not known, as for a CPU."""
        each = peak_flops(self.device.device_kind)
        return None if each is None else self.mesh.size * each

    def peak_memory(self) -> int | None:
        """The most bytes that a device of this process has had in use so far; None if the backend does not tell."""
        here = [device for device in self.mesh.devices.flat if device.process_index == jax.process_index()]
        told = [stats["peak_bytes_in_use"] for device in here if "peak_bytes_in_use" in (stats := _memory(device))]
        return max(told, default=None)

    @functools.cached_property
    def parts(self) -> int:
        """Into how many parts the examples of a batch are divided."""
        assert self.batch_spec is not None
        return parts_of(self.batch_spec[0], self.mesh) if len(self.batch_spec) else 1

    @functools.cached_property
    def is_there(self) -> bool:
        """Whether its devices are on a machine that runs. Those of `topology` are only compiled for."""
        # JAX has no other word for it: devices of other processes cannot be addressed here, but they are there.
        return not any(type(device.client).__name__ == "CompileOnlyPyClient" for device in self.mesh.devices.flat)

    @functools.cached_property
    def several_processes(self) -> bool:
        """Whether its devices belong to more than one process. Those that are not there belong to none."""
        return self.is_there and len({device.process_index for device in self.mesh.devices.flat}) > 1

    @functools.cached_property
    def writes(self) -> bool:
        """Whether this process writes files and to the console: of several, the first does."""
        return not self.several_processes or self.device.process_index == 0

    @functools.cached_property
    def sharding(self) -> jax.sharding.Sharding:
        """Where an array lies of which each device holds all."""
        if self.single:
            return jax.sharding.SingleDeviceSharding(self.device)
        return NamedSharding(self.mesh, PartitionSpec())

    def sharded(self, spec: PartitionSpec) -> jax.sharding.Sharding:
        """Where an array lies that is divided by `spec`."""
        return self.sharding if self.single else NamedSharding(self.mesh, spec)

    def shardings(self, tree: Any, *, given: Mapping[Any, PartitionSpec] | None = None, where: str = "params") -> Any:
        """Where each array of a tree of parameters lies: by the rule, or as `given` says of its path.

        Args:
          tree: PyTree of arrays, or of shapes and dtypes.
          given: specifications that come before the rule, by paths as `jax.tree_util` gives them.
          where: what the tree is, for messages.

        Raises:
          TypeError, ValueError: a specification does not fit the mesh or the array; the message has its path.
        """
        if self.single:
            return jax.tree.map(lambda _: self.sharding, tree)

        def place(path: Any, leaf: Any) -> jax.sharding.Sharding:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            spec = None if given is None else given.get(path)
            by, fix = ("rule", "Use one of them") if spec is None else ("partitioning metadata", _RULES)
            spec = self.rule(name, leaf) if spec is None else spec
            check_axes(f"{by} of {where} {name!r}", spec, self.mesh, fix)
            check_divides(f"{by} of {where} {name!r}", spec, leaf.shape, self.mesh)
            return self.sharded(spec)

        return jax.tree_util.tree_map_with_path(place, tree)

    def batch_shardings(self, batch: Any, rows: int | None, *, stacked: bool = False) -> Any:
        """How the arrays of a batch lie, as programs take them.

        Args:
          batch: PyTree of arrays, or of shapes and dtypes.
          rows: how many examples it has. An array with another first axis is not divided. None if that is not known:
            then every array is divided whose first axis can be.
          stacked: whether the arrays have an axis of steps before that of the examples.
        """
        if self.single:
            return self.sharding
        assert self.batch_spec is not None
        spec = self.batch_spec

        def place(leaf: Any) -> jax.sharding.Sharding:
            shape = leaf.shape[stacked:]
            if not shape or shape[0] % self.parts or (rows is not None and shape[0] != rows):
                return self.sharding
            divides = [
                names if length % parts_of(names, self.mesh) == 0 else None
                for names, length in zip(spec, shape, strict=False)
            ]
            return self.sharded(PartitionSpec(*[None] * stacked, *divides))

        return jax.tree.map(place, batch)

    def put(self, tree: Any) -> Any:
        """The tree as arrays of the placement. Arrays that lie on it already stay as they are."""
        if self.single:
            return jax.device_put(tree, self.device)
        return jax.tree.map(lambda leaf: leaf if self._has(leaf) else self.copy(leaf), tree)

    def copies(self, tree: Any, shardings: Any) -> Any:
        """Arrays of the placement that share no memory with those of `tree`, so that they can be donated.

        Args:
          tree: PyTree of arrays, on any devices.
          shardings: PyTree of where each lies.
        """
        leaves, structure = jax.tree.flatten(tree)
        places = jax.tree.leaves(shardings)
        here = [] if self.single else [index for index, leaf in enumerate(leaves) if self._has(leaf)]
        copied = copied_within([leaves[index] for index in here], [places[index] for index in here])
        for index in set(range(len(leaves))) - set(here):
            leaves[index] = self.copy(leaves[index], places[index])
        for index, leaf in zip(here, copied, strict=True):
            leaves[index] = leaf
        return structure.unflatten(leaves)

    def copy(self, leaf: Any, sharding: jax.sharding.Sharding | None = None) -> jax.Array:
        """An array of the placement that shares no memory with `leaf`, see `copies`.

        Args:
          leaf: an array.
          sharding: where it lies; None for all of it on each device.
        """
        place = self.sharding if sharding is None else sharding
        if self.single:
            return copied_to_device(leaf, self.device)
        if self._has(leaf):
            return copied_within([leaf], [place])[0]
        return copied_to(leaf, place, directly=not self.is_cpu and not self.several_processes)

    def put_batch(self, batch: Any) -> Any:
        """A whole batch on its devices, divided: for steps by hand. Every process gives the same batch."""
        batch = jax.tree.map(np.asarray, batch)
        rows = {leaf.shape[:1] for leaf in jax.tree.leaves(batch)}
        places = self.batch_shardings(batch, next(iter(rows))[0] if len(rows) == 1 and () not in rows else None)
        if self.single:
            return jax.device_put(batch, self.sharding)
        return jax.tree.map(from_host, batch, places)

    def holds(self, array: jax.Array) -> bool:
        """Whether the array lies on just these devices."""
        return array.sharding.device_set == self._devices

    def fetch(self, tree: Any) -> Any:
        """The tree in NumPy, whole on every process. Waits for the device."""
        return jax.tree.map(whole, tree)

    def on_first_process(self, arrays: Sequence[jax.Array]) -> list[Any]:
        """The arrays, whole, in the memory of the first process's host. All processes must call it. Waits for them.

        One array after the other is whole on each device for a moment, if it is divided between processes. The other
        processes get nothing in place of each.
        """
        host = jax.local_devices(backend="cpu")[0]
        wholes = (whole(array) for array in arrays)
        return [jax.device_put(array, host) for array in wholes] if self.writes else [None for _ in wholes]

    def describe(self) -> str:
        """For a person: `"cpu:0 (cpu)"`, or `"8 devices (TPU v5e): data=8, the batch by data"`."""
        if self.single:
            return f"{self.platform}:{self.device.id} ({self.device.device_kind})"
        axes = ", ".join(f"{name}={size}" for name, size in self.mesh.shape.items())
        assert self.batch_spec is not None
        by = f"the batch by {said(self.batch_spec[0])}" if self.parts > 1 else "the batch not divided"
        rule = "" if self.rule is replicate else f", parameters by {getattr(self.rule, '__name__', self.rule)}"
        return f"{self.mesh.size} devices ({self.device.device_kind}): {axes}; {by}{rule}"

    def check_is_there(self) -> None:
        """Refuses devices on which nothing can run.

        Raises:
          ValueError: as said.
        """
        if not self.is_there:
            raise ValueError(
                f"on: a machine that is not there can only be compiled for; got {self.describe()}. Give it to "
                "TrainingLoop.compile, explain or largest_batch only. For all else name devices of jax.devices(), or "
                "leave out `on`."
            )
        if self.device.process_index != jax.process_index():
            raise ValueError(
                f"on: {self.describe()} has no device of this process, {jax.process_index()}. Give one of "
                "jax.local_devices(), or a mesh with devices of every process, as jaxloop.data_parallel() makes."
            )

    def _has(self, leaf: Any) -> bool:
        return isinstance(leaf, jax.Array) and self.holds(leaf)

    @functools.cached_property
    def _devices(self) -> set[Device]:
        return set(self.mesh.devices.flat)


def _memory(device: Device) -> Mapping[str, int]:
    """What a device tells of its memory; nothing on a backend that does not count it."""
    return device.memory_stats() or {}
