"""What was made or found out once. It is kept from fit to fit, by what it depends on."""

import weakref
from collections.abc import Callable, Hashable
from typing import Any

import jax

from jaxloop.placement import Placement


class ByIdentity:
    """An object compared by identity, and kept, so that its `id` is never another's."""

    def __init__(self, value: Any):
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ByIdentity) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


class Memo:
    """Values by their keys.

    The keys hold the objects they are made of, compared by identity, so that no object can be mistaken for another. A
    copy of a memo begins empty, since copied objects would make other keys.
    """

    def __init__(self) -> None:
        self._kept: dict[Hashable, Any] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def __reduce__(self) -> Any:
        return Memo, ()

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What is kept under `key`, made now if there is nothing yet."""
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]

    def forget(self, gone: set[int]) -> None:
        """Drops each value that is an object whose `id` is in `gone`, or has such an object in its key."""
        for key, value in list(self._kept.items()) if gone else ():
            if not gone.isdisjoint(map(id, (*key, value) if isinstance(key, tuple) else (value,))):
                del self._kept[key]


class Residents:
    """Samples that lie on a device. They are put there once, and dropped with the first of their arrays on the host."""

    def __init__(self) -> None:
        self._copies: dict[Hashable, tuple[list[Any], list[Any]]] = {}

    def __len__(self) -> int:
        return len(self._copies)

    def __reduce__(self) -> Any:
        return Residents, ()

    def on(self, placement: Placement, samples: Any) -> Any:
        """The samples as arrays of `placement`."""
        leaves, tree = jax.tree.flatten(samples)
        key, copies = (placement, *map(id, leaves)), self._copies

        def forget(_: Any) -> None:
            copies.pop(key, None)

        if key not in copies:  # a copy: what shares the memory of an array would keep it alive
            copies[key] = [weakref.ref(leaf, forget) for leaf in leaves], [placement.copy(leaf) for leaf in leaves]
        return tree.unflatten(copies[key][1])
