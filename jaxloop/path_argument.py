"""A path, as the place of files must be."""

from pathlib import Path
from typing import Any


def path_argument(where: str, value: Any, example: str) -> Path:
    """The value as a path, with `~` as the home folder.

    Args:
      where: the argument, such as "CSVLogger: `path`", for the message.
      value: what was given.
      example: what could be given, for the message.

    Raises:
      TypeError: it is no path.
    """
    try:
        path = Path(value)
    except TypeError:
        got = repr(value) if isinstance(value, (bool, int, float)) or value is None else type(value).__name__
        raise TypeError(f"{where} must be a path, got {got}. Write {example!r}.") from None
    return path.expanduser()
