"""Figures of what was measured: the columns of a fit, and the losses of a learning-rate range test."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxloop.events import TRAINING, VALIDATION, Split, splits_of
from jaxloop.hyperparameters import RATE, is_rate
from jaxloop.measured import as_floats, as_number, is_measured
from jaxloop.path_argument import path_argument

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Table = Mapping[str, np.ndarray]

#: Blue and vermilion of Okabe and Ito's palette: colour-blind readers can distinguish them.
_BLUE, _VERMILION = "#0072B2", "#D55E00"
_COLORS = (_VERMILION, "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # of the sets of validation
_GROUP_COLORS = (_BLUE, *_COLORS)
_LONG_NAME = 20  # letters
_GREY = "#808080"
_NO_PANEL = ("epoch", "batch", "step", "learning_rate", "seconds", "examples_per_second", "mfu", "peak_memory_bytes")
_MARKED_POINTS = 40  # with more epochs the points of a curve are not marked: the markers would cover the curve


def draw_history(
    epochs: Table,
    batches: Table,
    names: Sequence[str] | None = None,
    validation_sets: Sequence[str] = (VALIDATION.name,),
) -> "Figure":
    """A figure with a panel for each metric over the epochs, and one for the learning rate.

    Args:
      epochs: columns of one row per epoch, as `History.epochs`.
      batches: columns of one row per training batch, as `History.batches`; may be empty.
      names: the columns to draw, in this order; None for every metric.
      validation_sets: the names of what was validated on.

    Raises:
      ValueError: there is no epoch, or no such column; the message names it.
      ModuleNotFoundError: matplotlib is not installed.
    """
    if not len(epochs.get("epoch", ())):
        raise ValueError("History.plot: there is nothing to draw, since no epoch was begun. Fit at least one.")
    splits = splits_of(validation_sets)
    names = _chosen(epochs, names, splits)
    rates = [name for name in epochs if is_rate(name) and _measured(epochs, name)]
    figure, panels, rate_panel = _panels(len(names), with_rate=bool(rates))
    judged_by = _judged_by(epochs, splits)
    best = _best_epoch(epochs, judged_by)
    per_epoch = _batches_per_epoch(batches)
    for panel, name in zip(panels, names, strict=True):
        if per_epoch > 1:
            _draw_batches(panel, batches, name, per_epoch)
        columns = dict(zip(splits, (split.stat(name) for split in splits), strict=True))
        for split, column in columns.items():
            _draw_epochs(panel, epochs, column, split, _color(splits, split), best)
        _title(panel, name, epochs, [(column, _color(splits, split)) for split, column in columns.items()], best)
        missing = _missing([epochs[column] for column in columns.values() if _measured(epochs, column)])
        if missing:
            panel.text(0.5, 0.5, missing, transform=panel.transAxes, ha="center", va="center", color=_GREY)
    start = epochs["epoch"][0]
    if per_epoch > 1:  # the first batches lie before the end of their epoch
        start = min(start, batches["epoch"][0] - 1)
    if rate_panel is not None:
        _draw_rates(rate_panel, epochs, batches, rates)
    _finish(figure, panels if rate_panel is None else [*panels, rate_panel], epochs, best, judged_by, start)
    return figure


def draw_range_test(rates: np.ndarray, losses: np.ndarray, smoothed: np.ndarray, suggestion: float) -> "Figure":
    """A figure of the losses of a learning-rate range test over the rate, with the suggested rate.

    Args:
      rates: float[steps], ascending.
      losses: float[steps], the loss of each batch.
      smoothed: float[steps], the losses smoothed.
      suggestion: the suggested rate.

    Raises:
      ModuleNotFoundError: matplotlib is not installed.
    """
    figure = _new_figure("LearningRateTest.plot", (6.4, 4.0))
    panel = figure.subplots()
    color = _BLUE
    panel.plot(rates, losses, color=color, alpha=0.3, linewidth=1, label="loss of a batch")
    panel.plot(rates, smoothed, color=color, linewidth=2, label="smoothed")
    if np.isfinite(suggestion):
        panel.axvline(suggestion, color=_VERMILION, linestyle="--", label=f"suggestion: {suggestion:.2g}")
    panel.set_xscale("log")
    panel.set_xlabel("learning rate")
    panel.set_ylabel("loss")
    if np.isfinite(smoothed).any():
        low, start = np.nanmin(smoothed), smoothed[0]
        room = max(start - low, 0.1 * abs(start), 1e-6)
        panel.set_ylim(low - 0.3 * room, start + 0.7 * room)  # a loss that diverges would leave the rest flat
    panel.legend(frameon=False)
    _without_frame(panel)
    return figure


def save(figure: "Figure", path: str | Path) -> None:
    """Writes `figure` to `path`, in the format of the file's ending. Folders are made."""
    path = path_argument("plot: `path`", path, "run/history.png")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def _color(splits: Sequence[Split], split: Split) -> str:
    return _BLUE if split == TRAINING else _COLORS[(splits.index(split) - 1) % len(_COLORS)]


def _chosen(epochs: Table, names: Sequence[str] | None, splits: Sequence[Split]) -> list[str]:
    """The columns to draw."""
    if names is None:  # every metric has a column of validation too, measured or not; what callbacks record has none
        return [name for name in epochs if all(split.stat(name) in epochs for split in splits)]
    if isinstance(names, str) or not names:
        raise ValueError(f"History.plot: `names` must be a list of one or more columns, got {names!r}.")
    with_their_metric = {split.stat(name) for name in epochs for split in splits[1:]}
    can_be = [name for name in epochs if not (name in with_their_metric or name in _NO_PANEL or is_rate(name))]
    for name in names:
        if name not in can_be:
            raise ValueError(f"History.plot: there is no column {name!r} to draw; there are {', '.join(can_be)}.")
    return list(names)


def _new_figure(where: str, size: tuple[float, float]) -> "Figure":
    """A figure that pyplot does not know: no window opens, and pyplot does not keep the figure in memory."""
    try:
        import matplotlib.figure  # noqa: F401 - first, so that it is what is missed

        from jaxloop.shown_figure import ShownFigure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{where}: it needs matplotlib, which is not installed. Install jaxloop with its extra `plot`, as in "
            "`pip install 'jaxloop[plot]'`, or only matplotlib."
        ) from error
    return ShownFigure(figsize=size, layout="constrained")


def _panels(count: int, *, with_rate: bool) -> "tuple[Figure, list[Axes], Axes | None]":
    """A figure with `count` panels and, with `with_rate`, a lower panel for the learning rate below them."""
    columns = 2 if count in (2, 4) else min(count, 3)
    rows = math.ceil(count / columns)
    heights = [1.0] * rows + [0.45] * with_rate
    figure = _new_figure("History.plot", (max(4.2 * columns, 6.4), 0.7 + 2.9 * sum(heights)))
    grid = figure.add_gridspec(len(heights), columns, height_ratios=heights)
    panels = [figure.add_subplot(grid[index // columns, index % columns]) for index in range(count)]
    return figure, panels, figure.add_subplot(grid[rows, :]) if with_rate else None


def _measured(table: Table, name: str) -> bool:
    return name in table and bool(is_measured(table[name]).any())


def _missing(columns: Sequence[np.ndarray]) -> str:
    """Why a panel of these curves is empty; "" if it is not."""
    if not columns:
        return "not measured"
    return "" if any(np.isfinite(as_floats(column)).any() for column in columns) else "not finite"


def _judged_by(epochs: Table, splits: Sequence[Split]) -> str:
    """The statistic of the best epoch: the loss over the first set of validation that was measured, else the loss."""
    losses = [split.stat("loss") for split in splits[1:]]
    return next((name for name in losses if _measured(epochs, name)), "loss")


def _best_epoch(epochs: Table, judged_by: str) -> int | None:
    """The row of the epoch with the lowest such loss; None if none is finite."""
    losses = as_floats(epochs.get(judged_by, ()))
    finite = np.isfinite(losses)
    return int(np.where(finite, losses, np.inf).argmin()) if finite.any() else None


def _batches_per_epoch(batches: Table) -> int:
    """The number of batches in the longest epoch, if each batch has a row; 0 if only the last one of an epoch has."""
    if not len(batches.get("batch", ())) or not (batches["batch"] == 1).any():
        return 0
    return int(batches["batch"].max())


def _draw_batches(panel: "Axes", batches: Table, name: str, per_epoch: int) -> None:
    """The curve of the batches. Batch b of n in epoch e is at e - 1 + b / n, so that the last is at e."""
    if not _measured(batches, name):
        return
    place = batches["epoch"] - 1 + batches["batch"] / per_epoch
    # A mean over the epoch so far starts again with each epoch. A NaN before it interrupts the curve there.
    begins = np.flatnonzero(np.diff(batches["epoch"])) + 1
    place, values = (np.insert(column.astype(float), begins, np.nan) for column in (place, as_floats(batches[name])))
    panel.plot(place, values, color=_BLUE, alpha=0.3, linewidth=1, label="training, batch by batch")


def _draw_epochs(panel: "Axes", epochs: Table, column: str, split: Split, color: str, best: int | None) -> None:
    """The curve of one split, with a mark at its value in the best epoch."""
    y = as_floats(epochs.get(column, ()))
    if not np.isfinite(y).any():
        return
    x = epochs["epoch"]
    marker = "o" if len(x) <= _MARKED_POINTS else ""
    panel.plot(x, y, color=color, linewidth=1.8, marker=marker, markersize=3.5, label=split.name)
    if best is not None:
        panel.plot(x[best], y[best], "o", color=color, markersize=8, markerfacecolor="none", markeredgewidth=1.5)


def _title(panel: "Axes", name: str, epochs: Table, columns: Sequence[tuple[str, str]], best: int | None) -> None:
    """The column's name, and at the right its values in the best epoch, in the colours of the curves."""
    size = "medium" if len(name) <= _LONG_NAME else "x-small"  # leaves room for the numbers
    panel.set_title(name, loc="left", fontsize=size, fontweight="bold")
    if best is None:
        return
    beside: Any = None
    for column, color in reversed(columns):
        if column not in epochs or not is_measured(epochs[column][best]):
            continue
        value = as_number(epochs[column][best])
        text = str(value) if isinstance(value, int) else f"{value:.4g}"
        style: dict[str, Any] = {"textcoords": "offset points", "ha": "right", "color": color}
        if beside is None:
            beside = panel.annotate(text, (1, 1), (0, 6), xycoords="axes fraction", va="baseline", **style)
        else:
            beside = panel.annotate(text, (0, 0), (-8, 0), xycoords=beside, va="bottom", **style)


def _draw_rates(panel: "Axes", epochs: Table, batches: Table, names: Sequence[str]) -> None:
    """The learning rate, batch by batch if each batch was reported; several as curves of their groups, on a log scale.

    On that scale a group is not drawn while its rate is 0.
    """
    per_epoch = _batches_per_epoch(batches)
    positive = False
    for index, name in enumerate(names):
        if per_epoch > 1 and _measured(batches, name):
            x, y = batches["epoch"] - 1 + batches["batch"] / per_epoch, batches[name]
        else:
            x, y = epochs["epoch"], epochs[name]
        alone = name == RATE
        color = _GREY if alone else _GROUP_COLORS[index % len(_GROUP_COLORS)]
        panel.plot(
            x,
            y,
            color=color,
            linewidth=1.8,
            marker="o" if len(x) == 1 else "",
            label="_alone" if alone else name.removeprefix(f"{RATE}/"),
        )
        positive |= not alone and bool((as_floats(y) > 0).any())
    if positive:
        panel.set_yscale("log", nonpositive="mask")
    if names != [RATE]:
        columns = 1 + (len(names) - 1) // 5
        panel.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize="small", ncols=columns)
    panel.set_title("learning_rate", loc="left", fontsize="medium", fontweight="bold")


def _finish(
    figure: "Figure", panels: "list[Axes]", epochs: Table, best: int | None, judged_by: str, start: int
) -> None:
    """Labels the axes, marks the best epoch in every panel, and draws one legend for all."""
    from matplotlib.ticker import MaxNLocator

    last = epochs["epoch"][-1]
    margin = 0.03 * max(last - start, 1)
    handles: dict[str, Any] = {}
    for panel in panels:
        panel.set_xlim(start - margin, last + margin)
        panel.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        panel.set_xlabel("epoch")
        _without_frame(panel)
        if panel.get_legend() is None:  # that of the rates has a legend of its own
            handles |= {str(line.get_label()): line for line in panel.get_legend_handles_labels()[0]}
        if best is not None:
            line = panel.axvline(epochs["epoch"][best], color=_GREY, linewidth=1, linestyle=":", zorder=0)
            handles[f"epoch {epochs['epoch'][best]}, lowest {judged_by}"] = line
    if handles:
        widths = [0.7 + 0.085 * len(label) for label in handles]  # about so many inches, a line and its label
        room = figure.get_figwidth()
        columns = len(handles) if sum(widths) <= room else max(1, int(room / max(widths)))
        figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=columns, frameon=False)


def _without_frame(panel: "Axes") -> None:
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(visible=True, alpha=0.25, linewidth=0.6)
