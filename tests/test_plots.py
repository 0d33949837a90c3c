"""The figures: which curves they hold, where, and what they say."""

import sys

import numpy as np
import pytest

from jaxloop.measured import UNMEASURED, unmeasured
from jaxloop.plots import draw_history, draw_range_test, save

pytest.importorskip("matplotlib")

EPOCHS = {
    "epoch": np.array([3, 4]),
    "loss": np.array([0.5, 0.25]),
    "accuracy": np.array([0.75, 1.0]),
    "validation_loss": np.array([0.625, 0.75]),
    "validation_accuracy": np.array([0.5, 0.625]),
    "learning_rate": np.array([0.1, 0.01]),
    "norm": np.array([2.0, 1.0]),
    "seconds": np.array([1.0, 1.0]),
    "examples_per_second": np.array([9.0, 9.0]),
}
BATCHES = {
    "epoch": np.array([3, 3, 4, 4]),
    "batch": np.array([1, 2, 1, 2]),
    "step": np.array([5, 6, 7, 8]),
    "loss": np.array([0.75, 0.5, 0.375, 0.25], np.float32),
    "accuracy": np.array([0.5, 0.75, 1.0, 1.0], np.float32),
    "learning_rate": np.array([0.2, 0.1, 0.05, 0.01], np.float32),
    "norm": np.array([4.0, 2.0, 2.0, 1.0], np.float32),
}

NOTHING = [UNMEASURED, UNMEASURED]


def changed(table, **columns):
    return table | {name: np.array(column) for name, column in columns.items()}


def panels(figure):
    return {panel.get_title(loc="left"): panel for panel in figure.axes}


def curves(panel):
    """The labelled curves of a panel, as lists of x and y."""
    lines, labels = panel.get_legend_handles_labels()
    return {label: (list(line.get_xdata()), list(line.get_ydata())) for line, label in zip(lines, labels, strict=True)}


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_each_metric_has_a_panel_and_the_learning_rate_one_below():
    assert list(panels(draw_history(EPOCHS, BATCHES))) == ["loss", "accuracy", "learning_rate"]


def test_training_and_validation_are_side_by_side_over_the_epochs():
    drawn = curves(panels(draw_history(EPOCHS, {}))["loss"])
    assert drawn == {"training": ([3, 4], [0.5, 0.25]), "validation": ([3, 4], [0.625, 0.75])}


def test_the_batches_lie_between_the_epochs_and_their_curve_begins_anew_with_each():
    x, y = curves(panels(draw_history(EPOCHS, BATCHES))["loss"])["training, batch by batch"]
    np.testing.assert_array_equal(x, [2.5, 3, np.nan, 3.5, 4])
    np.testing.assert_array_equal(y, [0.75, 0.5, np.nan, 0.375, 0.25])


def test_where_only_the_last_batch_of_each_epoch_was_reported_there_is_no_curve_of_batches():
    last = {name: column[1::2] for name, column in BATCHES.items()}
    figure = draw_history(EPOCHS, last)
    assert "training, batch by batch" not in legend(figure)
    assert list(panels(figure)["learning_rate"].get_lines()[0].get_xdata()) == [3, 4]


def test_the_learning_rate_is_drawn_batch_by_batch_where_it_is_known_so():
    line = panels(draw_history(EPOCHS, BATCHES))["learning_rate"].get_lines()[0]
    assert list(line.get_xdata()) == [2.5, 3, 3.5, 4]
    np.testing.assert_array_equal(line.get_ydata(), BATCHES["learning_rate"])


def test_without_a_known_learning_rate_there_is_no_panel_of_it():
    assert list(panels(draw_history(changed(EPOCHS, learning_rate=NOTHING), {}))) == ["loss", "accuracy"]


def test_the_best_epoch_is_that_of_the_lowest_validation_loss():
    figure = draw_history(EPOCHS, {})
    assert legend(figure) == ["training", "validation", "epoch 3, lowest validation_loss"]
    said = {name: [text.get_text() for text in panel.texts] for name, panel in panels(figure).items()}
    assert said == {"loss": ["0.625", "0.5"], "accuracy": ["0.5", "0.75"], "learning_rate": []}


def test_without_validation_the_best_epoch_is_that_of_the_lowest_loss():
    figure = draw_history(changed(EPOCHS, validation_loss=NOTHING, validation_accuracy=NOTHING), {})
    assert legend(figure) == ["training", "epoch 4, lowest loss"]
    assert [text.get_text() for text in panels(figure)["loss"].texts] == ["0.25"]


def test_an_epoch_without_a_number_is_never_the_best():
    assert "epoch 4, lowest validation_loss" in legend(draw_history(changed(EPOCHS, validation_loss=[np.nan, 9.0]), {}))


def test_a_metric_without_a_number_says_that_it_was_not_measured():
    panel = panels(draw_history(changed(EPOCHS, accuracy=NOTHING, validation_accuracy=NOTHING), {}))["accuracy"]
    assert ([text.get_text() for text in panel.texts], curves(panel)) == (["not measured"], {})


def test_a_metric_that_has_diverged_says_so_and_has_no_best_epoch():
    columns = {name: [np.nan, np.inf] for name in ("validation_loss", "validation_accuracy", "accuracy")}
    figure = draw_history(changed(EPOCHS, **columns), {})
    assert [text.get_text() for text in panels(figure)["accuracy"].texts] == ["not finite"]
    assert legend(figure) == ["training"]  # the loss of training is no second best


def test_no_infinite_loss_is_the_lowest():
    figure = draw_history(changed(EPOCHS, validation_loss=[0.5, -np.inf]), {})
    assert "epoch 3, lowest validation_loss" in legend(figure)


def test_whole_numbers_are_drawn_with_a_gap_where_they_were_not_measured():
    tokens = np.array([unmeasured(np.int32), 2**24 + 1], np.int32)
    epochs = EPOCHS | {"tokens": tokens}
    panel = panels(draw_history(epochs, {}, names=["tokens"]))["tokens"]
    np.testing.assert_array_equal(panel.get_lines()[0].get_ydata(), [np.nan, 2**24 + 1])


def test_where_nothing_is_a_number_no_epoch_is_the_best():
    names = ["loss", "accuracy", "validation_loss", "validation_accuracy"]
    nothing = {name: [np.nan, np.nan] for name in names}
    assert draw_history(changed(EPOCHS, **nothing), {}).legends == []


@pytest.mark.parametrize("name", ["matthews_correlation_coefficient", "a" * 20])
def test_a_long_name_leaves_room_for_the_numbers_beside_it(name):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    columns = {name: [-0.08671, 0.0931], f"validation_{name}": [-0.08671, -0.06706]}
    figure = draw_history(changed(EPOCHS, **columns), {}, names=["loss", "accuracy", name])
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    panel = panels(figure)[name]
    title = next(text for text in panel.findobj(Text) if text.get_text() == name).get_window_extent(renderer)
    assert all(title.x1 < text.get_window_extent(renderer).x0 for text in panel.texts)


def test_names_choose_what_is_drawn_and_in_which_order():
    figure = draw_history(EPOCHS, BATCHES, ["norm", "loss"])
    assert list(panels(figure)) == ["norm", "loss", "learning_rate"]
    assert curves(panels(figure)["norm"])["training"] == ([3, 4], [2, 1])


@pytest.mark.parametrize("name", ["f1", "validation_loss", "seconds"])
def test_a_name_that_is_no_column_to_draw_is_refused(name):
    with pytest.raises(ValueError, match=rf"no column '{name}' to draw; there are loss, accuracy, norm\."):
        draw_history(EPOCHS, BATCHES, [name])


@pytest.mark.parametrize("names", ["loss", []])
def test_names_that_are_no_list_of_columns_are_refused(names):
    with pytest.raises(ValueError, match="`names` must be a list of one or more columns, got"):
        draw_history(EPOCHS, BATCHES, names)


def test_an_empty_history_is_refused():
    with pytest.raises(ValueError, match="nothing to draw"):
        draw_history({}, {})


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7])
def test_any_number_of_metrics_fits_into_one_figure(count, tmp_path):
    names = [f"metric{index}" for index in range(count)]
    table = {name: np.array([0.5]) for name in (*names, *(f"validation_{name}" for name in names))}
    figure = draw_history({"epoch": np.array([1])} | table, {})
    save(figure, tmp_path / "figure.png")
    assert list(panels(figure)) == names


def test_a_figure_is_saved_in_a_folder_that_is_made(tmp_path):
    save(draw_history(EPOCHS, BATCHES), tmp_path / "new" / "figure.png")
    assert (tmp_path / "new" / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_pyplot_knows_nothing_of_a_figure():
    from matplotlib import pyplot

    draw_history(EPOCHS, BATCHES)
    assert pyplot.get_fignums() == []


RATES, LOSSES, SMOOTHED = np.array([0.01, 0.1, 1.0]), np.array([2.0, 1.0, np.inf]), np.array([1.75, 1.25, 5.0])


def test_a_range_test_is_drawn_over_the_rate_with_its_suggestion():
    (panel,) = draw_range_test(RATES, LOSSES, SMOOTHED, 0.1).axes
    drawn = curves(panel)
    assert drawn["loss of a batch"] == (RATES.tolist(), LOSSES.tolist())
    assert drawn["smoothed"] == (RATES.tolist(), SMOOTHED.tolist())
    assert drawn["suggestion: 0.1"][0] == [0.1, 0.1]
    assert panel.get_xscale() == "log"


def test_what_diverged_does_not_flatten_the_rest_of_a_range_test():
    (panel,) = draw_range_test(RATES, LOSSES, SMOOTHED, 0.1).axes
    assert panel.get_ylim() == pytest.approx((1.1, 2.1))  # 0.5 lies between the first and the lowest


def test_a_range_test_without_a_number_is_still_drawn(tmp_path):
    nothing = np.full(3, np.nan)
    figure = draw_range_test(RATES, nothing, nothing, np.nan)
    save(figure, tmp_path / "figure.png")
    assert list(curves(figure.axes[0])) == ["loss of a batch", "smoothed"]


def test_without_matplotlib_it_is_said_which_extra_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ModuleNotFoundError, match=r"History.plot.*needs matplotlib.*extra `plot`.*jaxloop\[plot\]"):
        draw_history(EPOCHS, BATCHES)
