"""The texts of the console: the line of a bar, the row of an epoch, and the numbers in them."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tqdm import tqdm

from jaxloop.events import TRAINING, VALIDATION, Split

_BAR_WIDTHS = 3, 30
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_NUMBER_WIDTH = 8
_NAME_WIDTH = 16
_AFTER_METRICS = 1000  # a rank above that of any metric


@dataclass(frozen=True)
class Moment:
    """How far a phase is. A number that is not known is NaN.

    Attributes:
      split: the current phase, and the set that it runs over.
      epoch_index, epoch_count: the position in the fit, from 0, and the number of its epochs.
      done, total: the number of batches that are done, and of all batches of the phase.
      measured: the present value of each metric in this phase, by name, if it is measured.
      learning_rate: the rate that was applied last, if there is only one.
      group_rates: the rate of each group of the optimizer, if there are several.
      examples_per_second: the speed in this phase.
      epoch_left, fit_left: the seconds that are left in the epoch and in the fit.
    """

    split: Split
    epoch_index: int
    epoch_count: int
    done: int
    total: int
    measured: Mapping[str, float]
    learning_rate: float = math.nan
    group_rates: Mapping[str, float] = field(default_factory=dict[str, float])
    examples_per_second: float = math.nan
    epoch_left: float = math.nan
    fit_left: float = math.nan


@dataclass(frozen=True)
class EpochRow:
    """The results of an epoch that is over. A number that is not known is NaN.

    Attributes:
      epoch_index, epoch_count: the position in the fit, from 0, and the number of its epochs.
      seconds: the time of its phases.
      metrics: the names of the metrics, in order.
      measured: what was measured in this epoch, by its name in `loop.stats`.
      validated: the sets on which an epoch of this fit was validated so far.
      best: whether its loss is the best so far.
      learning_rate: the rate that was applied last, if there is only one.
      group_rates: the rate of each group of the optimizer, if there are several.
      examples_per_second: the speed of its training.
    """

    epoch_index: int
    epoch_count: int
    seconds: float
    metrics: Sequence[str]
    measured: Mapping[str, float]
    validated: Sequence[Split]
    best: bool
    learning_rate: float = math.nan
    group_rates: Mapping[str, float] = field(default_factory=dict[str, float])
    examples_per_second: float = math.nan


@dataclass(frozen=True)
class _Piece:
    """A part of a line, with its separator from the part before. If room is short, the highest ranks are left out."""

    rank: int
    text: str
    header: str = ""


def number(value: float) -> str:
    """`value` with four significant digits, of one width where possible; an int in full.

    Example:
      >>> [number(value) for value in (0.5, 1234.56, 123456.0, 0.00012, math.nan)]
      ['0.5000', '1235', '1.235e5', '1.200e-4', 'nan']
      >>> number(16777217)
      '16777217'
    """
    if isinstance(value, int):
        return str(value)
    if not math.isfinite(value):
        return str(float(value))
    mantissa, exponent = f"{value:.3e}".split("e")
    power = int(exponent)
    if -4 < power < 5:
        return f"{value:.{max(0, 3 - power)}f}"
    return f"{mantissa}e{power}"


def short(value: float) -> str:
    """`value` with at most four significant digits, without trailing zeros.

    Example:
      >>> [short(value) for value in (0.01, 3e-4, 100.0, 0.0)]
      ['0.01', '3e-4', '100', '0']
    """
    mantissa, exponential, power = number(value).partition("e")
    mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    return mantissa + exponential + power


def duration(seconds: float) -> str:
    """`seconds` in a form that is easy to read.

    Example:
      >>> [duration(seconds) for seconds in (0.2, 59.0, 65.0, 3723.0, 200_000.0)]
      ['0 s', '59 s', '1:05', '1:02:03', '2 d 7 h']
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours_of_day = divmod(hours, 24)
    if days:
        return f"{days} d {hours_of_day} h"
    if hours:
        return f"{hours}:{minutes:02}:{rest:02}"
    return f"{minutes}:{rest:02}" if minutes else f"{rest} s"


def bar_line(moment: Moment, width: int, *, ascii: bool = False) -> str:
    """The line of a bar for `moment`, in at most `width` characters.

    If room is short, the parts are kept in this order: batches, the loss, the bar itself, the time left in the fit, the
    other metrics in their order, the time left in the epoch, examples per second, the learning rate.

    Args:
      moment: what to show.
      width: at least 1.
      ascii: whether to draw the bar in ASCII.
    """
    lead = _lead(moment, width)
    batches = f" {moment.done:{len(str(moment.total))}}/{moment.total}"
    least, most = max(_BAR_WIDTHS[0], width // 8), _BAR_WIDTHS[1]
    blank = _Piece(2, f" |{'':{least}}|")
    pieces = _fitting([blank, _Piece(0, batches), *_details(moment, rate="lr")], width - len(lead))
    slack = width - len(lead) - sum(len(piece.text) for piece in pieces)
    texts = [_bar(moment, min(most, least + slack), ascii) if piece is blank else piece.text for piece in pieces]
    return (lead + "".join(texts))[:width]


def _lead(moment: Moment, width: int) -> str:
    """The epoch, and the set of a validation; on a narrow terminal only the set."""
    title = _title(moment.epoch_index, moment.epoch_count)
    if moment.split == TRAINING:
        return title.rjust(len(VALIDATION.name))
    name = moment.split.name
    both = f"{title} {name}"
    return both if len(both) <= width // 2 else name.rjust(max(map(len, (title, VALIDATION.name))))


def moment_line(moment: Moment) -> str:
    """`moment` as one line of a log."""
    title = _title(moment.epoch_index, moment.epoch_count)
    details = "".join(piece.text for piece in _details(moment, rate="learning_rate")).removeprefix(", ")
    batches = f"{title} {moment.split.name} {moment.done}/{moment.total} batches"
    return f"{batches} - {details}" if details else batches


def epoch_line(row: EpochRow) -> str:
    """An epoch as one line of a log: names as in `loop.stats`, each before its number."""
    names = [split.stat(name) for name in row.metrics for split in (TRAINING, *row.validated)]
    texts = [f"{name} {number(row.measured[name])}" for name in names if name in row.measured]
    texts += [f"{name} {short(rate)}" for name, rate in _rates(row, "learning_rate")]
    if row.best:
        texts.append("best")
    title = _title(row.epoch_index, row.epoch_count)
    timed = title if math.isnan(row.seconds) else f"{title} in {_seconds(row.seconds)} s"
    return f"{timed} - {', '.join(texts)}" if texts else timed


def table_lines(row: EpochRow, width: int) -> tuple[str, str]:
    """The header of a table and the row of an epoch, each of at most `width` characters.

    The column under a metric's name is training, and each column to its right is a set of validation. If room is short,
    the columns are kept in this order: the epoch, the loss, the mark at the best, the other metrics in their order, the
    seconds, the learning rate, examples per second.
    """
    place = f"{row.epoch_index + 1}/{row.epoch_count}".rjust(max(len("epoch"), 2 * len(str(row.epoch_count)) + 1))
    pieces = [
        _Piece(0, place, "epoch".rjust(len(place))),
        _cell(_AFTER_METRICS, "seconds", _seconds(row.seconds)),
        *(_cells(row, name, rank) for name, rank in zip(row.metrics, _ranks(len(row.metrics)), strict=True)),
    ]
    pieces += [_cell(_AFTER_METRICS + 1, name, short(rate)) for name, rate in _rates(row, "learning_rate")]
    pieces.append(_cell(_AFTER_METRICS + 2, "examples/s", _examples(row.examples_per_second)))
    pieces.append(_cell(2, "best", "*" if row.best else ""))
    kept = _fitting(pieces, width)
    texts = ("".join(piece.header for piece in kept), "".join(piece.text for piece in kept))
    return texts[0].rstrip()[:width], texts[1].rstrip()[:width]


def timing_line(seconds: Mapping[str, float]) -> str:
    """Where the time went, the longest first; what took less than a thousandth of it is left out.

    Example:
      >>> timing_line({"compile": 2.0, "device": 6.5, "data": 0.001})
      'Took 8.50 s: device 6.50 s, compile 2.00 s'
    """
    total = sum(seconds.values())
    parts = sorted(seconds.items(), key=lambda part: -part[1])
    texts = [f"{name} {_seconds(spent)} s" for name, spent in parts if spent >= total / 1000]
    return f"Took {_seconds(total)} s: {', '.join(texts)}"


def wrapped(text: str, width: int) -> str:
    """The text with its lines broken between words, where they are longer than `width`."""
    return "\n".join(
        line if len(line) <= width else textwrap.fill(line, width, subsequent_indent="  ", break_on_hyphens=False)
        for line in text.split("\n")
    )


def _title(epoch_index: int, epoch_count: int) -> str:
    return f"Epoch {epoch_index + 1:{len(str(epoch_count))}}/{epoch_count}"


def _details(moment: Moment, rate: str) -> list[_Piece]:
    """The parts of a moment's line after the number of batches, in their order."""
    ranks = _ranks(len(moment.measured))
    metrics = [f"{name} {number(value)}" for name, value in moment.measured.items()]
    pieces = [_Piece(rank, f", {text}") for rank, text in zip(ranks, metrics, strict=True)]
    if moment.split == TRAINING:
        pieces += [_Piece(_AFTER_METRICS + 2, f", {name} {short(value)}") for name, value in _rates(moment, rate)]
    if not math.isnan(moment.examples_per_second):
        pieces.append(_Piece(_AFTER_METRICS + 1, f", {_examples(moment.examples_per_second)} examples/s"))
    if not math.isnan(moment.fit_left):
        pieces.append(_Piece(3, f", {duration(moment.fit_left)} left"))
        if moment.epoch_index + 1 < moment.epoch_count:
            pieces.append(_Piece(_AFTER_METRICS, f" ({duration(moment.epoch_left)} in epoch)"))
    return pieces


def _rates(shown: Moment | EpochRow, name: str) -> list[tuple[str, float]]:
    """The rates that are known: one under `name`, or those of groups under `name/group`."""
    rates = {name: shown.learning_rate} | {f"{name}/{group}": rate for group, rate in shown.group_rates.items()}
    return [(name, rate) for name, rate in rates.items() if not math.isnan(rate)]


def _ranks(count: int) -> list[int]:
    """The ranks of `count` metrics: 1 for the loss, which is the first, and 4, 5, ... for the others."""
    return [1, *range(4, 3 + count)][:count]


def _fitting(pieces: Sequence[_Piece], room: int) -> list[_Piece]:
    """The `pieces` that fit into `room` characters, in their order. Those of the lowest ranks are taken first."""
    kept = []
    for piece in sorted(pieces, key=lambda piece: piece.rank):
        if len(piece.text) <= room or not kept:
            kept.append(piece)
            room -= len(piece.text)
    return [piece for piece in pieces if piece in kept]


def _bar(moment: Moment, width: int, ascii: bool) -> str:
    fraction = min(moment.done / moment.total, 1.0) if moment.total > 0 else 0.0
    full, eighths = divmod(int(fraction * width * 8), 8)
    drawn = "#" * full if ascii else _EIGHTHS[-1] * full + _EIGHTHS[eighths].strip()
    return f" |{drawn:{width}}|"


def _cells(row: EpochRow, name: str, rank: int) -> _Piece:
    """One metric: its training value, and beside it its value over each set on which the fit validates."""
    shown = name if len(name) <= _NAME_WIDTH else name[: _NAME_WIDTH - 1] + "."
    headers = [shown.rjust(_NUMBER_WIDTH), *(split.name for split in row.validated)]
    values = [row.measured.get(split.stat(name)) for split in (TRAINING, *row.validated)]
    cells = [
        _cell(rank, header.rjust(_NUMBER_WIDTH), "-" if value is None else number(value))
        for header, value in zip(headers, values, strict=True)
    ]
    return _Piece(rank, "".join(cell.text for cell in cells), "".join(cell.header for cell in cells))


def _cell(rank: int, header: str, text: str) -> _Piece:
    """A cell under its header, two spaces after the cell before. A long text uses these spaces too."""
    return _Piece(rank, text.rjust(len(header) + 2), "  " + header)


def _seconds(seconds: float) -> str:
    decimals = 2 if seconds < 10 else 1 if seconds < 100 else 0
    return "-" if math.isnan(seconds) else f"{seconds:.{decimals}f}"


def _examples(per_second: float) -> str:
    return "-" if math.isnan(per_second) else tqdm.format_sizeof(per_second)
