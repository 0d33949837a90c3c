"""Columns of numbers as lines of text. NumPy makes all rows at once, since its `str` takes 0.5 us for one float32.

A column of text is uint8[width, rows], in ASCII. It is 0 where a row has no character.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxloop.measured import is_measured

_POWERS = 10.0 ** np.arange(-4, 14)
_PLAIN = _POWERS[:10]  # numbers from the first to below the last are written without an exponent, in 18 digits at most
_FOUR = (np.arange(10000) // np.array([[1000], [100], [10], [1]]) % 10 + ord("0")).astype(np.uint8)
"""The four digits of each number below 10000, uint8[4, 10000]."""


def lines(cells: Sequence[np.ndarray | str], count: int) -> bytes:
    """`count` lines of cells with commas between them. The cell of a statistic that was not measured is empty.

    Args:
      cells: each is a column, float32[count], int32[count] or uint32[count], or a text that is the same in every line.
      count: the number of lines, at least 1.

    Example:
      >>> lines([np.array([1, 20], np.int32), "training", np.array([0.1, 2], np.float32)], 2)
      b'1,training,0.1\\n20,training,2.0\\n'
    """
    line: list[np.ndarray] = []
    same = ""
    for index, cell in enumerate(cells):
        same += "," if index else ""
        if isinstance(cell, str) or _is_same(cell):
            same += cell if isinstance(cell, str) else _text(cell[0])
        else:
            line += [_repeated(same, count), floats(cell) if cell.dtype.kind == "f" else integers(cell)]
            same = ""
    return np.concatenate([*line, _repeated(same + "\n", count)]).tobytes("F").translate(None, b"\0")


def floats(column: np.ndarray) -> np.ndarray:
    """The texts of float32[rows]: the fewest digits that read back as the same float32, as in NumPy's `str`.

    Nine digits distinguish all float32 numbers. Eight, seven or six digits replace them if they read back as the same
    number. If fewer are enough, the six end in zeros. The digits and the powers of ten are whole numbers that float64
    holds exactly, so that their quotient is the number that reading the text gives.
    """
    with np.errstate(invalid="ignore"):  # a signalling NaN
        exact = np.abs(column).astype(np.float64)
    place = np.where(exact == 0, len(_PLAIN) - 1, np.searchsorted(_PLAIN, exact, side="right"))
    if not (place.min() > 0 and place.max() < len(_PLAIN)):
        return _mixed(column, (place > 0) & (place < len(_PLAIN)))
    decimals = 13 - place  # where there are nine digits
    power = _POWERS.take(decimals + 4)
    scaled = exact * power
    digits = np.rint(scaled)
    for dropped in (10.0, 100.0, 1000.0):
        fewer = np.rint(scaled / dropped) * dropped
        np.copyto(digits, fewer, where=(fewer / power).astype(np.float32) == exact)
    most = int(decimals.max())
    text = _digits((digits * _POWERS.take(most - decimals + 4)).astype(np.int64), most + 1)
    whole, fraction = text[:-most], text[-most:]
    _blank(whole[:-1])
    _blank(fraction[:0:-1])
    return np.concatenate([_sign(np.signbit(column)), whole, _repeated(".", len(column)), fraction])


def integers(column: np.ndarray) -> np.ndarray:
    """The texts of int32[rows] or uint32[rows]."""
    text = _digits(np.abs(column.astype(np.int64)))
    _blank(text[:-1])
    text = np.concatenate([_sign(column < 0), text])
    measured = is_measured(column)
    if not measured.all():
        text[:, ~measured] = 0
    return text


def _mixed(column: np.ndarray, plain: np.ndarray) -> np.ndarray:
    """The texts of a column with numbers that are not `plain`: NaN, infinities, and those with an exponent.

    The plain ones are made all at once, the others one by one.
    """
    texts = np.zeros(len(column), "S24")
    texts[~plain] = [_text(number) for number in column[~plain]]
    text = texts.view(np.uint8).reshape(len(column), -1).T
    if plain.any():
        made = floats(column[plain])
        text[: len(made), plain] = made
    return text


def _text(number: Any) -> str:
    return str(number) if is_measured(number) else ""


def _digits(numbers: np.ndarray, at_least: int = 1) -> np.ndarray:
    """The digits of int64[rows], which are not negative, with leading zeros; `at_least` is the least width."""
    text = np.empty((max(at_least, len(str(int(numbers.max())))), len(numbers)), np.uint8)
    for end in range(len(text), 0, -4):
        above = numbers // 10000
        four = numbers - 10000 * above
        for place in range(max(end - 4, 0), end):
            _FOUR[place - end].take(four, out=text[place], mode="clip")
        numbers = above
    return text


def _blank(text: np.ndarray) -> None:
    """Replaces the leading zeros of `text` by no character, in place."""
    zeros = np.True_
    for digits in text:
        zeros = zeros & (digits == ord("0"))
        if not zeros.any():
            break
        digits[zeros] = 0


def _is_same(column: np.ndarray) -> bool:
    """Whether all rows have the same bits, which can be those of a NaN."""
    bits = column.view(np.int32)
    return bool(bits[0] == bits[-1] and (bits == bits[0]).all())


def _sign(negative: np.ndarray) -> np.ndarray:
    return np.where(negative, np.uint8(ord("-")), np.uint8(0))[None]


def _repeated(text: str, count: int) -> np.ndarray:
    """The same text in all rows."""
    return np.broadcast_to(np.frombuffer(text.encode(), np.uint8)[:, None], (len(text.encode()), count))
