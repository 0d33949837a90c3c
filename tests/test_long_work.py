"""What tells long work from a hang."""

import threading

import pytest

from jaxloop.long_work import is_at_hand, long_work
from jaxloop.programs.programs import Program


def test_work_is_at_hand_until_its_last_piece_ends():
    assert not is_at_hand()
    with long_work():
        with long_work():
            assert is_at_hand()
        assert is_at_hand()
    assert not is_at_hand()


def test_work_that_fails_has_ended():
    with pytest.raises(KeyError), long_work():
        raise KeyError
    assert not is_at_hand()


def test_work_of_another_thread_is_seen():
    def work() -> None:
        with long_work():
            begun.set()
            over.wait(10)

    begun, over = threading.Event(), threading.Event()
    thread = threading.Thread(target=work)
    thread.start()
    assert begun.wait(10)
    assert is_at_hand()
    over.set()
    thread.join(10)
    assert not is_at_hand()


@pytest.mark.parametrize("way", ["jaxpr", "compile", "__call__"])
def test_tracing_and_compiling_a_program_is_long_work_and_calling_it_again_is_not(way: str):
    def function(number):
        seen.append(is_at_hand())
        return number + 1

    seen: list[bool] = []
    program = Program("counting", function)
    getattr(program, way)(1.0)
    assert seen == [True]
    assert not is_at_hand()
