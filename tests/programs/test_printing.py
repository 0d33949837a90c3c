"""What is printed while code is traced."""

import sys
import threading
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from jaxloop.programs.printing import listening


def test_a_traced_array_is_told_from_other_text_and_all_of_it_appears(capsys: Any) -> None:
    heard: list[bool] = []

    def traced(x: Any) -> Any:
        print(x)
        print("done")
        return x

    before = sys.stdout
    with listening(heard.append):
        jax.make_jaxpr(traced)(jnp.ones(2))
    assert (heard, sys.stdout is before) == ([True, False], True)
    assert capsys.readouterr().out.endswith("done\n")


def test_another_thread_is_not_heard() -> None:
    heard: list[bool] = []
    with listening(heard.append):
        thread = threading.Thread(target=print, args=("elsewhere",))
        thread.start()
        thread.join()
        assert sys.stdout.isatty() in (True, False)
    assert heard == []


def test_standard_output_that_is_closed_off_is_no_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    with listening(lambda traced: None):
        pass
