"""`ByValue`: a static part of a program, which is compared by value if the value can be hashed."""

from typing import Any


class ByValue:
    """Equal to another `ByValue` of an equal value. If the value cannot be hashed, it is equal only to itself.

    JAX compiles again for every static part that is not equal to an earlier one.

    Example:
      >>> ByValue((1, 2)) == ByValue((1, 2)), ByValue([1, 2]) == ByValue([1, 2])
      (True, False)
    """

    def __init__(self, value: Any):
        self.value = value
        try:
            self._hash: int | None = hash(value)
        except TypeError:
            self._hash = None

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, ByValue) or self._hash is None or self._hash != other._hash:
            return False
        return self.value == other.value

    def __hash__(self) -> int:
        return id(self) if self._hash is None else self._hash
