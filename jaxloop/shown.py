"""How values show themselves to a person: tables of HTML for notebooks, and what a tree of arrays amounts to."""

import html
from collections.abc import Iterable, Sequence
from typing import Any

import jax

_MOST_ARRAYS = 20


def table(title: str, rows: Iterable[Sequence[str]], *, header: Sequence[str] = (), notes: Sequence[str] = ()) -> str:
    """A table of HTML under its title, with notes below. Every text is escaped."""
    head = _row(header, "th") if header else ""
    body = "".join(_row(row, "td") for row in rows)
    below = "".join(f"<div>{html.escape(note)}</div>" for note in notes)
    return f"<div><b>{html.escape(title)}</b><table>{head}{body}</table>{below}</div>"


def amount(tree: Any) -> str:
    """What a tree of arrays amounts to.

    Example:
      >>> amount({"kernel": np.zeros((4, 3), np.float32), "bias": np.zeros(3, np.float32)})
      '15 parameters in 2 arrays, 6e-05 MB'
    """
    arrays = [leaf for _, leaf in _arrays(tree)]
    count = sum(leaf.size for leaf in arrays)
    size = sum(leaf.size * getattr(leaf.dtype, "itemsize", 0) for leaf in arrays)
    return f"{count:,} parameters in {len(arrays)} arrays, {size / 1e6:.3g} MB"


def array_rows(tree: Any) -> list[tuple[str, str, str]]:
    """The path, the dtype with the shape, and the number of elements of each array; of at most 20."""
    arrays = _arrays(tree)
    rows = [(path, f"{leaf.dtype}{list(leaf.shape)}", f"{leaf.size:,}") for path, leaf in arrays[:_MOST_ARRAYS]]
    more = len(arrays) - len(rows)
    return rows + ([(f"and {more:,} more", "", "")] if more else [])


def name_of_function(function: Any) -> str:
    """The name of a function, or what an object of this library says of itself, or the name of its class."""
    name = getattr(function, "__qualname__", None) or getattr(function, "__name__", None)
    if name:
        return str(name).replace("<locals>.", "")
    return said_by(function)


def said_by(value: Any) -> str:
    """What an object of this library says of itself; of any other, which may say a lot, only its class."""
    ours = type(value).__module__.partition(".")[0] == "jaxloop"
    return repr(value) if ours and type(value).__repr__ is not object.__repr__ else type(value).__name__


def _arrays(tree: Any) -> list[tuple[str, Any]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [
        (jax.tree_util.keystr(path), leaf) for path, leaf in leaves if hasattr(leaf, "shape") and hasattr(leaf, "dtype")
    ]


def _row(texts: Sequence[str], tag: str) -> str:
    return f"<tr>{''.join(f'<{tag}>{html.escape(text)}</{tag}>' for text in texts)}</tr>"
