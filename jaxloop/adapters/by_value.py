"""`ByValue`: a static part of a program, compared by its value where it has one."""

from typing import Any


class ByValue:
    """Equal to another that holds an equal value; one whose value cannot be hashed equals itself alone.

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
