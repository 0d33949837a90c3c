"""What is a callback and what makes one, and by what name a fresh process finds it."""

import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import jaxloop as jl
from jaxloop.testing.making import found, known_as, maker_of
from tests.testing import candidates


def test_a_function_of_a_folder_and_a_class_make_a_new_callback_for_each_run(tmp_path: Path) -> None:
    for given in (candidates.csv, candidates.Counting, lambda folder: candidates.Counting(folder)):
        maker = maker_of(given)
        one, other = (maker.make(tmp_path)[0] for _ in range(2))
        assert type(one) is type(other)
        assert one is not other
    assert len(maker_of(lambda folder: [jl.callbacks.ema(0.9), candidates.csv(folder)]).make(tmp_path)) == 2


def test_a_host_callback_that_is_given_itself_is_copied_and_a_compiled_one_is_not(tmp_path: Path) -> None:
    counting, average = candidates.Counting(tmp_path), jl.callbacks.ema(0.9)
    made = maker_of([counting, average]).make(tmp_path)
    assert made[0] is not counting
    made[0].count = 5
    assert counting.count == 0
    assert made[1] is average
    assert maker_of(candidates.remembering).make(tmp_path) == [candidates.remembering]


def test_only_what_another_process_can_import_has_a_name() -> None:
    for given in (candidates.csv, candidates.Counting, candidates.remembering, candidates.counting_in_the_module):
        name = known_as(given)
        assert name is not None
        assert found(name) is given
    inside = candidates.counting_in_a_variable(Path())
    for given in (lambda folder: None, inside, partial(candidates.csv), candidates.Counting(Path())):
        assert known_as(given) is None


def test_what_is_neither_is_refused(tmp_path: Path) -> None:
    def neither(one: Any, two: Any, three: Any) -> None: ...

    with pytest.raises(TypeError, match="expected a callback, or a function that makes one, got 5"):
        maker_of(5)
    with pytest.raises(TypeError, match="takes neither a folder, as what makes a callback, nor a loop and an event"):
        maker_of(neither)
    with pytest.raises(TypeError, match="must give one, or a list of them, got None"):
        maker_of(lambda folder: None).make(tmp_path)
    locked = candidates.Counting(tmp_path)
    locked.lock = threading.Lock()  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match=r"'Counting' cannot be copied for each run, .*Give what makes it"):
        maker_of(locked).make(tmp_path)
