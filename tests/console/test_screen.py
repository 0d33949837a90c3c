"""What comes to stand on a terminal, in a notebook, and in anything else."""

import contextlib
import dataclasses
import io
import sys
import types

import pytest
from tqdm import tqdm

from jaxloop.console import screen as screen_module
from jaxloop.console.lines import EpochRow, Moment
from jaxloop.console.screen import Lines, Notebook, Terminal, screen_on
from jaxloop.events import TRAINING

MOMENT = Moment(TRAINING, epoch_index=0, epoch_count=3, done=2, total=4, measured={"loss": 0.5})
HALF = f" Epoch 1/3 |{'█' * 15:30}| 2/4, loss 0.5000"
FULL = f" Epoch 1/3 |{'█' * 30}| 4/4, loss 0.5000"
ROW = EpochRow(
    epoch_index=0,
    epoch_count=3,
    seconds=1.0,
    metrics=("loss",),
    measured={"loss": 0.5},
    validated=(),
    best=True,
)
HEADER = "epoch  seconds      loss  examples/s  best"
LINE = "  1/3     1.00    0.5000           -     *"


@pytest.fixture(autouse=True)
def _columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture
def use_terminal(terminal, monkeypatch):
    """Makes standard output a terminal; to be called in the test, since pytest puts its own there before."""

    def use():
        monkeypatch.setattr(sys, "stdout", terminal)
        return terminal

    return use


def standing_on(terminal):
    """The lines that stand on a terminal after what was written to it."""
    lines, row, column = [""], 0, 0
    for part in terminal.getvalue().replace("\x1b[A", "\0"):  # the cursor goes up
        if part == "\n":
            row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
        elif part == "\r":
            column = 0
        elif part == "\0":
            row -= 1
        else:
            lines[row] = lines[row].ljust(column)[:column] + part + lines[row][column + 1 :]
            column += 1
    return [line.rstrip() for line in lines]


def test_a_terminal_holds_one_bar_however_often_it_is_shown(terminal):
    screen = Terminal(terminal)
    screen.show(MOMENT)
    screen.show(dataclasses.replace(MOMENT, done=4))
    assert standing_on(terminal) == [FULL]
    screen.close()


def test_a_hidden_bar_leaves_nothing(terminal):
    screen = Terminal(terminal)
    screen.show(MOMENT)
    screen.hide()
    assert standing_on(terminal) == [""]


def test_a_bar_that_was_there_at_the_end_stays_with_its_line_ended(terminal):
    screen = Terminal(terminal)
    screen.show(MOMENT)
    screen.close()
    assert standing_on(terminal) == [HALF, ""]


def test_closing_twice_is_closing_once(terminal):
    screen = Terminal(terminal)
    screen.show(MOMENT)
    screen.close()
    screen.close()
    assert standing_on(terminal) == [HALF, ""]


def test_what_is_written_stands_above_the_bar(terminal):
    screen = Terminal(terminal)
    screen.show(MOMENT)
    screen.write("Compiled training_step in 1.0 s")
    assert standing_on(terminal) == ["Compiled training_step in 1.0 s", HALF]
    screen.close()


def test_a_table_has_its_header_once_until_its_columns_change(terminal, monkeypatch):
    screen = Terminal(terminal)
    screen.add(ROW)
    screen.add(ROW)
    monkeypatch.setenv("COLUMNS", "20")
    screen.add(ROW)
    assert standing_on(terminal) == [HEADER, LINE, LINE, "epoch      loss", "  1/3    0.5000", ""]


@pytest.mark.parametrize("columns", [10, 40, 80, 200])
def test_nothing_reaches_the_last_column(terminal, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    screen = Terminal(terminal)
    screen.show(dataclasses.replace(MOMENT, examples_per_second=100.0, fit_left=1000.0, epoch_left=10.0))
    screen.write("")
    screen.add(ROW)
    assert max(map(len, standing_on(terminal))) < columns
    screen.close()


def test_a_stream_that_cannot_write_blocks_gets_an_ascii_bar():
    bytes_written = io.BytesIO()
    screen = Terminal(io.TextIOWrapper(bytes_written, encoding="ascii"))
    screen.show(MOMENT)
    screen.close()
    assert f"|{'#' * 15:30}|".encode() in bytes_written.getvalue()


def test_what_is_printed_while_there_is_a_bar_stands_above_it(use_terminal):
    standard_output = use_terminal()
    screen = screen_on(None)
    print("before")
    screen.show(MOMENT)
    print("in", "between")
    sys.stdout.writelines(["two\n", "lines\n"])
    assert standing_on(standard_output) == ["before", "in between", "two", "lines", HALF]
    screen.hide()
    print("after")
    assert standing_on(standard_output) == ["before", "in between", "two", "lines", "after", ""]


def test_a_warning_while_there_is_a_bar_stands_above_it(use_terminal, monkeypatch):
    terminal = use_terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    screen = screen_on(None)
    screen.show(MOMENT)
    print("careful", file=sys.stderr)
    assert standing_on(terminal) == ["careful", HALF]
    screen.hide()
    assert sys.stderr is terminal


def test_a_printed_line_waits_for_its_end_and_at_most_for_that_of_the_bar(use_terminal):
    standard_output = use_terminal()
    screen = screen_on(None)
    screen.show(MOMENT)
    print("begun,", end="", flush=True)
    assert standing_on(standard_output) == [HALF]
    print(" ended")
    print("left open", end="")
    assert standing_on(standard_output) == ["begun, ended", HALF]
    screen.hide()
    assert standing_on(standard_output) == ["begun, ended", "left open", ""]


def test_standard_output_is_back_once_the_bar_is_gone(use_terminal):
    standard_output = use_terminal()
    screen = screen_on(None)
    screen.show(MOMENT)
    assert sys.stdout is not standard_output
    assert sys.stdout.isatty()
    screen.hide()
    assert sys.stdout is standard_output
    screen.show(MOMENT)
    screen.close()
    assert sys.stdout is standard_output


def test_whoever_kept_what_stood_in_for_standard_output_still_writes_to_it(use_terminal):
    standard_output = use_terminal()
    screen = screen_on(None)
    screen.show(MOMENT)
    kept = sys.stdout
    screen.hide()
    kept.write("no end")
    assert standing_on(standard_output) == ["no end"]


def test_what_another_has_put_in_the_place_of_standard_output_stays_there(use_terminal):
    standard_output = use_terminal()
    screen = screen_on(None)
    screen.show(MOMENT)
    with contextlib.redirect_stdout(io.StringIO()) as other:
        screen.hide()
        assert sys.stdout is other
        print("to the other")
    assert other.getvalue() == "to the other\n"
    print("to the terminal")  # through what stood in before the other did
    assert standing_on(standard_output) == ["to the terminal", ""]


def test_standard_output_that_is_no_terminal_is_left_alone(terminal):
    before = sys.stdout
    screen = Terminal(terminal)
    screen.show(MOMENT)
    assert sys.stdout is before
    screen.close()


def test_a_bar_on_standard_error_lets_what_is_printed_stand_above_it(use_terminal, monkeypatch):
    standard_output = use_terminal()
    monkeypatch.setattr(sys, "stderr", standard_output.__class__())
    screen = screen_on(sys.stderr)
    screen.show(MOMENT)
    print("printed")
    assert standing_on(standard_output) == ["printed", ""]
    assert standing_on(sys.stderr) == [HALF]
    assert sys.stderr.getvalue().count(HALF) == 2  # it made room, and came back
    screen.close()


def test_a_fit_in_the_middle_of_another_has_a_bar_below_and_prints_above_both(use_terminal):
    standard_output = use_terminal()
    outer = screen_on(None)
    outer.show(MOMENT)
    inner = screen_on(None)
    inner.show(dataclasses.replace(MOMENT, done=4))
    inner.write("notice")
    print("printed")
    assert standing_on(standard_output) == ["notice", "printed", HALF, FULL]
    inner.hide()
    inner.add(ROW)
    assert standing_on(standard_output)[:5] == ["notice", "printed", HEADER, LINE, HALF]
    outer.hide()
    assert sys.stdout is standard_output


def test_what_is_written_by_tqdm_stands_above_the_bar(use_terminal):
    standard_output = use_terminal()
    screen = screen_on(None)
    screen.show(MOMENT)
    tqdm.write("by tqdm")
    assert standing_on(standard_output) == ["by tqdm", HALF]
    screen.close()


def test_anything_else_gets_a_line_for_each_thing_there_is_to_say():
    stream = io.StringIO()
    screen = screen_on(stream)
    assert isinstance(screen, Lines)
    screen.write("Training on cpu:0")
    screen.show(MOMENT)
    screen.hide()
    screen.add(ROW)
    screen.close()
    assert stream.getvalue().splitlines() == [
        "Training on cpu:0",
        "Epoch 1/3 training 2/4 batches - loss 0.5000",
        "Epoch 1/3 in 1.00 s - loss 0.5000, best",
    ]


def test_a_stream_that_cannot_say_what_it_is_gets_lines():
    assert isinstance(screen_on(types.SimpleNamespace(write=print)), Lines)  # type: ignore[arg-type]


class Outputs:
    """Stands in for IPython: the outputs of a cell, each with all that was drawn in it."""

    def __init__(self):
        self.drawn = []
        self.kernel = True

    def get_ipython(self):
        return self

    def display(self, data, *, raw, display_id):
        assert raw
        assert display_id
        self.drawn.append([data["text/plain"]])
        drawn = self.drawn[-1]
        return types.SimpleNamespace(update=lambda data, raw: drawn.append(data["text/plain"]))


@pytest.fixture
def notebook(monkeypatch):
    outputs = Outputs()
    monkeypatch.setitem(sys.modules, "IPython", outputs)
    monkeypatch.setitem(sys.modules, "IPython.display", outputs)
    return outputs


def test_in_a_notebook_the_table_is_printed_and_the_bar_is_one_output_drawn_over(notebook, capsys):
    screen = screen_on(None)
    assert isinstance(screen, Notebook)
    screen.show(MOMENT)
    screen.show(dataclasses.replace(MOMENT, done=4))
    screen.hide()
    screen.hide()
    screen.add(ROW)
    screen.show(MOMENT)
    screen.close()
    assert notebook.drawn == [[HALF, FULL, "", HALF]]
    assert capsys.readouterr().out.splitlines() == [HEADER, LINE]


def test_in_a_notebook_a_stream_that_was_given_is_what_it_is(notebook):
    assert isinstance(screen_on(io.StringIO()), Lines)


def test_ipython_without_a_kernel_is_no_notebook(notebook, monkeypatch):
    monkeypatch.delattr(notebook, "kernel")
    assert isinstance(screen_on(None), Lines)


def test_what_a_terminal_waits_for_stands_in_the_place_of_the_bar(terminal):
    screen = Terminal(terminal)
    screen.show(MOMENT)
    screen.wait_for("Compiling training_step ...")
    assert standing_on(terminal) == ["Compiling training_step ..."]
    screen.wait_for(None)
    assert standing_on(terminal) == [HALF]
    screen.close()


def test_what_a_terminal_waited_for_leaves_nothing_where_there_was_no_bar(terminal):
    screen = Terminal(terminal)
    screen.wait_for(None)
    assert terminal.getvalue() == ""
    screen.wait_for("Compiling training_step ...")
    screen.wait_for(None)
    assert standing_on(terminal) == [""]
    screen.close()


def test_what_a_terminal_waits_for_does_not_reach_the_last_column(terminal, monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    screen = Terminal(terminal)
    screen.wait_for("Compiling training_step for float32[16, 8] ...")
    assert standing_on(terminal) == ["Compiling training_"]
    screen.close()


def test_what_a_pipe_waits_for_is_a_line_only_if_it_takes_long(monkeypatch):
    stream = io.StringIO()
    lines = Lines(stream)
    lines.wait_for("Compiling training_step ...")
    lines.wait_for(None)
    assert stream.getvalue() == ""
    monkeypatch.setattr(screen_module, "_LONG_WAIT", 0.0)
    lines.wait_for("Compiling training_step ...")
    assert lines._timer is not None
    lines._timer.join(10)
    lines.close()
    assert stream.getvalue() == "Compiling training_step ...\n"


def test_closing_a_pipe_ends_the_waiting():
    lines = Lines(io.StringIO())
    lines.wait_for("Compiling training_step ...")
    timer = lines._timer
    assert timer is not None
    lines.close()
    assert not timer.is_alive()


def test_in_a_notebook_what_is_waited_for_is_drawn_in_the_place_of_the_bar(notebook):
    screen = screen_on(None)
    screen.show(MOMENT)
    screen.wait_for("Compiling training_step ...")
    screen.wait_for(None)
    screen.wait_for(None)
    screen.hide()
    assert notebook.drawn == [[HALF, "Compiling training_step ...", HALF, ""]]


def test_a_long_line_is_broken_between_words(terminal, monkeypatch):
    monkeypatch.setenv("COLUMNS", "32")
    Terminal(terminal).write("Stopped after epoch 7 of 20: early_stopping")
    assert standing_on(terminal) == ["Stopped after epoch 7 of 20:", "  early_stopping", ""]
