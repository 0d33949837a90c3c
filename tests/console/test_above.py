"""Tests of text that is printed while there is a bar."""

import io
from typing import Any

from jaxloop.console.above import OutputAboveBar, is_terminal


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_whole_lines_come_above_the_bar_and_the_rest_at_the_end(capsys: Any) -> None:
    stream = Terminal()
    above = OutputAboveBar(stream)
    above.write("one\ntw")
    assert stream.getvalue() == "one\n"
    above.writelines(["o\n", "three"])
    assert stream.getvalue() == "one\ntwo\n"
    above.close()
    assert stream.getvalue() == "one\ntwo\nthree\n"
    above.write("after")
    assert stream.getvalue().endswith("after")


def test_a_stream_that_is_closed_is_no_terminal() -> None:
    stream = Terminal()
    assert is_terminal(stream)
    assert not is_terminal(io.StringIO())

    class Closed:
        def isatty(self) -> bool:
            raise ValueError("closed")

    assert not is_terminal(Closed())
