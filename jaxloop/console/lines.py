"""What the console says: the line of a bar, the row of an epoch, and the numbers in them, as text."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tqdm import tqdm

from jaxloop.events import Phase

_BAR_WIDTHS = 3, 30
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_NUMBER_WIDTH = 8
_NAME_WIDTH = 16
_BEHIND_METRICS = 1000  # a rank that no metric has
_VALIDATION = Phase.VALIDATION.value


@dataclass(frozen=True)
class Moment:
    """Where a phase stands. What is not known is NaN.

    Attributes:
      phase: the one at hand.
      epoch_index, epoch_count: position in the fit, from 0.
      done, total: its batches.
      measured: each metric by name, as it stands in this phase, once it is measured.
      learning_rate: the one last applied.
      examples_per_second: of this phase.
      epoch_left, fit_left: seconds.
    """

    phase: Phase
    epoch_index: int
    epoch_count: int
    done: int
    total: int
    measured: Mapping[str, float]
    learning_rate: float = math.nan
    examples_per_second: float = math.nan
    epoch_left: float = math.nan
    fit_left: float = math.nan


@dataclass(frozen=True)
class EpochRow:
    """What there is to say of an epoch that is over. What is not known is NaN.

    Attributes:
      epoch_index, epoch_count: position in the fit, from 0.
      seconds: of its phases.
      metrics: their names, in order.
      measured: by name in `loop.stats`, what was measured in this epoch.
      validated: whether validation belongs to the epochs of this fit, measured in this one or not.
      best: whether its loss is the best so far.
      learning_rate: the one last applied.
      examples_per_second: of its training.
    """

    epoch_index: int
    epoch_count: int
    seconds: float
    metrics: Sequence[str]
    measured: Mapping[str, float]
    validated: bool
    best: bool
    learning_rate: float = math.nan
    examples_per_second: float = math.nan


@dataclass(frozen=True)
class _Piece:
    """A part of a line, with what separates it from the part before; the lowest ranks are the last to be left out."""

    rank: int
    text: str
    header: str = ""


def number(value: float) -> str:
    """`value` with four significant digits, of one width as far as can be; an int in full.

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
    """`value` with at most four significant digits, and no zeros behind the last of them.

    Example:
      >>> [short(value) for value in (0.01, 3e-4, 100.0, 0.0)]
      ['0.01', '3e-4', '100', '0']
    """
    mantissa, exponential, power = number(value).partition("e")
    mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    return mantissa + exponential + power


def duration(seconds: float) -> str:
    """`seconds` as a person reads them.

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
    """A bar with all there is to say of `moment`, in at most `width` characters.

    What matters most has the first choice: batches, the loss, the bar itself, the time left in the fit, the other
    metrics in their order, the time left in the epoch, examples per second, the learning rate.

    Args:
      moment: what is shown.
      width: at least 1.
      ascii: whether the bar is drawn in ASCII.
    """
    title = _title(moment.epoch_index, moment.epoch_count)
    lead = (title if moment.phase is Phase.TRAINING else _VALIDATION).rjust(max(len(title), len(_VALIDATION)))
    batches = f" {moment.done:{len(str(moment.total))}}/{moment.total}"
    least, most = max(_BAR_WIDTHS[0], width // 8), _BAR_WIDTHS[1]
    blank = _Piece(2, f" |{'':{least}}|")
    pieces = _fitting([blank, _Piece(0, batches), *_details(moment, rate="lr")], width - len(lead))
    slack = width - len(lead) - sum(len(piece.text) for piece in pieces)
    texts = [_bar(moment, min(most, least + slack), ascii) if piece is blank else piece.text for piece in pieces]
    return (lead + "".join(texts))[:width]


def moment_line(moment: Moment) -> str:
    """All there is to say of `moment`, in one line of a log."""
    title = _title(moment.epoch_index, moment.epoch_count)
    details = "".join(piece.text for piece in _details(moment, rate="learning_rate")).removeprefix(", ")
    batches = f"{title} {moment.phase.value} {moment.done}/{moment.total} batches"
    return f"{batches} - {details}" if details else batches


def epoch_line(row: EpochRow) -> str:
    """All there is to say of an epoch, in one line of a log: names as in `loop.stats`, each before its number."""
    names = [phase.stat(name) for name in row.metrics for phase in Phase]
    texts = [f"{name} {number(row.measured[name])}" for name in names if name in row.measured]
    if not math.isnan(row.learning_rate):
        texts.append(f"learning_rate {short(row.learning_rate)}")
    if row.best:
        texts.append("best")
    title = _title(row.epoch_index, row.epoch_count)
    timed = title if math.isnan(row.seconds) else f"{title} in {_seconds(row.seconds)} s"
    return f"{timed} - {', '.join(texts)}" if texts else timed


def table_lines(row: EpochRow, width: int) -> tuple[str, str]:
    """The header of a table and the row of an epoch under it, each of at most `width` characters.

    Under the name of a metric stands training, and to its right validation. What matters most has the first choice:
    the epoch, the loss, the mark at the best, the other metrics in their order, the seconds, the learning rate,
    examples per second.
    """
    place = f"{row.epoch_index + 1}/{row.epoch_count}".rjust(max(len("epoch"), 2 * len(str(row.epoch_count)) + 1))
    pieces = [
        _Piece(0, place, "epoch".rjust(len(place))),
        _cell(_BEHIND_METRICS, "seconds", _seconds(row.seconds)),
        *(_pair(row, name, rank) for name, rank in zip(row.metrics, _ranks(len(row.metrics)), strict=True)),
    ]
    if not math.isnan(row.learning_rate):
        pieces.append(_cell(_BEHIND_METRICS + 1, "learning_rate", short(row.learning_rate)))
    pieces.append(_cell(_BEHIND_METRICS + 2, "examples/s", _examples(row.examples_per_second)))
    pieces.append(_cell(2, "best", "*" if row.best else ""))
    kept = _fitting(pieces, width)
    texts = ("".join(piece.header for piece in kept), "".join(piece.text for piece in kept))
    return texts[0].rstrip()[:width], texts[1].rstrip()[:width]


def _title(epoch_index: int, epoch_count: int) -> str:
    return f"Epoch {epoch_index + 1:{len(str(epoch_count))}}/{epoch_count}"


def _details(moment: Moment, rate: str) -> list[_Piece]:
    """What there is to say of a moment beside its place, in the order in which it is said."""
    ranks = _ranks(len(moment.measured))
    metrics = [f"{name} {number(value)}" for name, value in moment.measured.items()]
    pieces = [_Piece(rank, f", {text}") for rank, text in zip(ranks, metrics, strict=True)]
    if not math.isnan(moment.learning_rate) and moment.phase is Phase.TRAINING:
        pieces.append(_Piece(_BEHIND_METRICS + 2, f", {rate} {short(moment.learning_rate)}"))
    if not math.isnan(moment.examples_per_second):
        pieces.append(_Piece(_BEHIND_METRICS + 1, f", {_examples(moment.examples_per_second)} examples/s"))
    if not math.isnan(moment.fit_left):
        pieces.append(_Piece(3, f", {duration(moment.fit_left)} left"))
        if moment.epoch_index + 1 < moment.epoch_count:
            pieces.append(_Piece(_BEHIND_METRICS, f" ({duration(moment.epoch_left)} in epoch)"))
    return pieces


def _ranks(count: int) -> list[int]:
    """The ranks of `count` metrics: of the loss, which is the first, and of those that follow it."""
    return [1, *range(4, 3 + count)][:count]


def _fitting(pieces: Sequence[_Piece], room: int) -> list[_Piece]:
    """Those of `pieces` that fit into `room` characters, in their order; the lowest ranks choose first."""
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


def _pair(row: EpochRow, name: str, rank: int) -> _Piece:
    """Training and, if there is any, validation of one metric, side by side."""
    shown = name if len(name) <= _NAME_WIDTH else name[: _NAME_WIDTH - 1] + "."
    values = [row.measured.get(phase.stat(name)) for phase in Phase]
    training, validation = ("-" if value is None else number(value) for value in values)
    left = _cell(rank, shown.rjust(_NUMBER_WIDTH), training)
    right = _cell(rank, _VALIDATION, validation)
    return _Piece(rank, left.text + right.text, left.header + right.header) if row.validated else left


def _cell(rank: int, header: str, text: str) -> _Piece:
    """A cell under its header, two spaces behind the one before; a long text runs into those."""
    return _Piece(rank, text.rjust(len(header) + 2), "  " + header)


def _seconds(seconds: float) -> str:
    decimals = 2 if seconds < 10 else 1 if seconds < 100 else 0
    return "-" if math.isnan(seconds) else f"{seconds:.{decimals}f}"


def _examples(per_second: float) -> str:
    return "-" if math.isnan(per_second) else tqdm.format_sizeof(per_second)
