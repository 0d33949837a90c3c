"""What `names` says: from which arrays of a file, and by which function, each leaf of a model is made."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

_WHERE = "load_weights"
_FORMS = "a name, (name, function), a list of these, or None to leave it out"


@dataclass(frozen=True)
class Source:
    """What a leaf is made of.

    Attributes:
      held: the names of arrays in the file.
      transform: takes these arrays, in NumPy, and gives the leaf; None if the one array is the leaf.
    """

    held: tuple[str, ...]
    transform: Callable[..., Any] | None = None


@dataclass
class Mapped:
    """Which leaf is made of what.

    Attributes:
      sources: by the leaf's name. Of several sources all must give the same array.
      unknown: names that `names` has and the file has not.
    """

    sources: dict[str, list[Source]] = field(default_factory=dict[str, list[Source]])
    unknown: list[str] = field(default_factory=list[str])

    def add(self, held: tuple[str, ...], given: Any) -> None:
        """Takes what `names` gives for arrays of the file.

        Raises:
          TypeError: it is none of the forms of `names`.
        """
        for name, transform in _targets(held, given):
            self.sources.setdefault(name, []).append(Source(held, transform))


def mapped(names: Any, held: Collection[str]) -> Mapped:
    """The sources of each leaf, by what `load_weights` takes as `names`.

    Args:
      names: see `load_weights`.
      held: the names in the file.

    Raises:
      TypeError: `names` is not as it must be.
    """
    result = Mapped()
    if names is not None and not isinstance(names, Mapping) and not callable(names):
        raise TypeError(
            f"{_WHERE}: `names` must be a mapping or a function from a name in the file to one of the model, got "
            f"{type(names).__name__}."
        )
    given = dict(names) if isinstance(names, Mapping) else {}
    function = names if callable(names) and not isinstance(names, Mapping) else None
    spoken: set[str] = set()
    for key, value in given.items():
        parts = key if isinstance(key, tuple) else (key,)
        if not parts or not all(isinstance(part, str) for part in parts):
            raise TypeError(f"{_WHERE}: a key of `names` must be a name in the file or a tuple of such, got {key!r}.")
        result.unknown.extend(part for part in parts if part not in held)
        spoken.update(parts)
        if all(part in held for part in parts):
            result.add(parts, value)
    for name in sorted(held):
        if function is not None:
            result.add((name,), function(name))
        elif name not in spoken:
            result.add((name,), name)
    return result


def _targets(held: tuple[str, ...], given: Any) -> Iterator[tuple[str, Callable[..., Any] | None]]:
    """The names of leaves that arrays of the file give, each with its function."""
    if given is None:
        return
    for one in given if isinstance(given, list) else [given]:
        name, transform = one if isinstance(one, tuple) and len(one) == 2 else (one, None)
        if not isinstance(name, str) or not (transform is None or callable(transform)):
            raise TypeError(f"{_WHERE}: `names` gave {given!r} for {', '.join(held)}. It must be {_FORMS}.")
        if transform is None and len(held) > 1:
            raise TypeError(
                f"{_WHERE}: `names` makes {name!r} of {len(held)} arrays, {', '.join(held)}, but by no function. Write "
                "(name, lambda a, b: ...)."
            )
        yield name, transform
