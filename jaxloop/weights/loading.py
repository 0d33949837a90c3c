"""`load_weights`: a model with the arrays of a file."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from jaxloop.errors import WeightsError
from jaxloop.plainly import plainly
from jaxloop.telling import warn
from jaxloop.weights.faults import Faults
from jaxloop.weights.file import Kind, WeightsFile
from jaxloop.weights.fitting import holds_all_of, key_implementation, kind_to_be, like, said
from jaxloop.weights.mapping import Mapped, Source, mapped
from jaxloop.weights.naming import Named, weights_of

_WHERE = "load_weights"

Names = Mapping[Any, Any] | Callable[[str], Any] | None


@plainly
def load_weights(
    path: str | Path, model: Any, names: Names = None, strict: bool = True, *, keep: str | Sequence[str] = ()
) -> Any:
    """A model with the arrays of a safetensors file, where its own lie. The given model stays as it is.

    All is checked before anything is loaded, and one error lists all that is missing, left over, misshapen or of
    another dtype. Floats become wider ones without a word, since nothing is lost: a file of bfloat16 fits a model of
    float32. Nothing else is cast; write `names=lambda name: (name, lambda array: array.astype(jnp.bfloat16))`. The keys
    and counters of random streams may be missing, as in files of other libraries: then the model keeps its own. Only
    arrays are read: a file cannot run code.

    Args:
      path: of the file, by `save_weights` or any other program.
      model: what `fit` takes, except a function; or `(module, variables)` of a linen module; or any pytree of arrays,
        such as a part of a model. Its numbers do not matter. In place of arrays it may have `jax.ShapeDtypeStruct`s,
        with shardings or without.
      names: what the file calls the arrays, if it has other names. A function of a name in the file, or a mapping; in
        a mapping, a name that is not in it stays as it is. Each gives the name in the model; or None, to leave it out;
        or `(name, function)`, where the function takes the array in NumPy and gives the leaf; or a list of these, for
        several leaves. A mapping may have a tuple of names in the file, for a leaf that is made of several arrays: its
        function takes all. If two arrays of the file are for one leaf, they must be equal.
      strict: with False, what fits is loaded, the model keeps its own of the rest, and a warning lists that.
      keep: parts of the model that keep their own, by the beginning of their names: `"head"` for `head.kernel` and
        `head.bias`. What the file has for them is not read.

    Returns:
      What was given, with other arrays: a module of nnx or equinox, a `Model`, `(module, variables)`, a pytree. Of a
      `Loop`, its model, since what the loop remembers of the old one, such as averages, does not belong to it.

    Raises:
      WeightsError: the file does not fit, is damaged, or is of another format.
      FileNotFoundError: there is no such file.
      TypeError, ValueError: `model` has no arrays, or `names` or `keep` are not as said.
      ModuleNotFoundError: safetensors is not installed.

    Example:
      >>> model = jl.load_weights("run/model.safetensors", model)
      >>> model = jl.load_weights("theirs.safetensors", model, {"w": ("kernel", np.transpose), "b": "bias"})
    """
    weights = weights_of(model, _WHERE)
    file = WeightsFile(path, _WHERE)
    kept = _kept(weights.named, keep)
    loading = _Loading(file, mapped(names, file.kinds))
    leaves = loading.leaves(weights.named, kept, strict)
    if loading.faults:
        _tell(loading, weights.kind, strict)
    return weights.rebuild(leaves)


@dataclass
class _Loading:
    """Makes leaves of a file, and finds what does not fit.

    Attributes:
      file: is read one array after the other.
      mapped: what each leaf is made of.
      faults: those found so far.
      count: how many leaves the file has given.
    """

    file: WeightsFile
    mapped: Mapped
    faults: Faults = field(default_factory=Faults)
    count: int = 0
    _misfit: set[str] = field(default_factory=set[str])
    _shared: dict[Any, Any] = field(default_factory=dict[Any, Any])

    def leaves(self, named: list[Named], kept: set[str], strict: bool) -> list[Any]:
        """The leaves, in order; the model's own where nothing fits. With `strict`, nothing is read if there is a fault.

        What a function of `names` gives can only be known by calling it, so that is done in any case.
        """
        known = {each.name for each in named}
        for name, sources in self.mapped.sources.items():
            if name not in known:
                for source in sources:
                    self.faults.left_over += [self._left_over(name, source)]
        self.faults.others += [f"it has no {name}, which `names` asks for" for name in self.mapped.unknown]
        chosen = {each.name: self._sources(each) for each in named if each.name not in kept}
        for each in named:
            if each.name in chosen and all(source.transform is None for source in chosen[each.name]):
                self._check_kinds(each, chosen[each.name])
        result = []
        for each in named:
            sources = [] if each.name in self._misfit else chosen.get(each.name, [])
            plain = all(source.transform is None for source in sources) and len(sources) == 1
            result.append(each.leaf if not sources or (strict and self.faults and plain) else self._leaf(each, sources))
        return result

    def _sources(self, each: Named) -> list[Source]:
        sources = self.mapped.sources.get(each.name, [])
        if not sources and not each.stream:
            self.faults.missing.append(each.name)
        return sources

    def _check_kinds(self, each: Named, sources: list[Source]) -> None:
        for source in sources:
            fault = self._differs(each, self.file.kinds[source.held[0]], self._key(source))
            if fault:
                return

    def _leaf(self, each: Named, sources: list[Source]) -> Any:
        """The leaf that a source gives; its own if that does not fit."""
        arrays = []
        for source in sources:
            array = self._made(each, source)
            if array is None or self._differs(each, Kind(array.shape, array.dtype), self._key(source)):
                return each.leaf
            arrays.append(array)
        for source, array in zip(sources[1:], arrays[1:], strict=True):
            if array.dtype != arrays[0].dtype or array.tobytes() != arrays[0].tobytes():
                first, other = ", ".join(sources[0].held), ", ".join(source.held)
                self.faults.others.append(f"its {first} is not its {other}, and both are for {each.name}")
                return each.leaf
        self.count += 1
        return self._one_for_all(each, sources[0], arrays[0])

    def _one_for_all(self, each: Named, source: Source, array: np.ndarray) -> Any:
        """The leaf; where another leaf is the same array in the file, the same leaf."""
        if source.transform is not None or isinstance(each.leaf, np.generic):
            return like(each.leaf, array)
        held = self.file.notes.shared.get(source.held[0], source.held[0])
        key = held, type(each.leaf), each.leaf.dtype, getattr(each.leaf, "sharding", None)
        if key not in self._shared:
            leaf = like(each.leaf, array)
            if held not in self.file.notes.shared.values():
                return leaf
            self._shared[key] = leaf
        return self._shared[key]

    def _made(self, each: Named, source: Source) -> np.ndarray | None:
        strange = [name for name in source.held if isinstance(self.file.kinds[name], str)]
        if strange:
            self.faults.dtypes.append(f"{each.name} {self.file.kinds[strange[0]]}, which NumPy does not have")
            return None
        arrays = [self.file.read(name) for name in source.held]
        if source.transform is None:
            return arrays[0]
        try:
            return np.asarray(source.transform(*arrays))
        except Exception as error:
            shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in zip(source.held, arrays, strict=True))
            self.faults.others.append(
                f"the function of `names` for {each.name} fails on {shapes}: {type(error).__name__}: {error}"
            )
            return None

    def _key(self, source: Source) -> str | None:
        return self.file.notes.keys.get(self.file.notes.shared.get(source.held[0], source.held[0]))

    def _differs(self, each: Named, got: Kind | str, key: str | None) -> bool:
        """Whether an array cannot be the leaf, which is then among the faults."""
        wanted, own = kind_to_be(each.leaf), key_implementation(each.leaf)
        if isinstance(got, Kind) and got.shape != wanted.shape:
            self.faults.shapes.append(f"{each.name} {list(got.shape)} for {list(wanted.shape)}")
        elif own != key:
            self.faults.dtypes.append(f"{each.name} {_sort(got, key)} for {_sort(wanted, own)}")
        elif isinstance(got, str) or not holds_all_of(wanted.dtype, got.dtype):
            self.faults.dtypes.append(f"{each.name} {said(got)} for {said(wanted)}")
        else:
            return False
        self._misfit.add(each.name)
        return True

    def _left_over(self, name: str, source: Source) -> str:
        held = ", ".join(source.held)
        return name if held == name else f"{name} (in the file {held})"


def _sort(kind: Kind | str, key: str | None) -> str:
    return said(kind) if key is None else f"key<{key}>"


def _kept(named: list[Named], keep: str | Sequence[str]) -> set[str]:
    kept: set[str] = set()
    for part in [keep] if isinstance(keep, str) else keep:
        found = {each.name for each in named if each.name == part or each.name.startswith(f"{part}.")}
        if not found:
            beginnings = ", ".join(sorted({each.name.split(".")[0] for each in named}))
            raise ValueError(
                f"{_WHERE}: `keep` has {part!r}, and no name of the model begins with that. They begin with "
                f"{beginnings}."
            )
        kept |= found
    return kept


def _tell(loading: _Loading, kind: str, strict: bool) -> None:
    """Raises, or warns, about all that does not fit.

    Raises:
      WeightsError: with `strict`; or nothing fits.
    """
    faults, path = loading.faults, loading.file.path
    if strict or not loading.count:
        raise WeightsError(
            f"{_WHERE}: {path}: it does not fit {kind}: {faults.summary()}. It is of another architecture or size; "
            "give the configuration that it was trained with. Or it has other names, or is a part: see `names`, "
            f"`keep` and `strict`. Nothing was loaded.{faults.listing()}"
        )
    warn(
        f"{_WHERE}: {path}: {loading.count} arrays were loaded, and {kind} keeps its own of the rest: "
        f"{faults.summary()}.{faults.listing()}",
    )
