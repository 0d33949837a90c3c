"""The message of a failed check says what is wrong, where, and what to do."""

from jaxloop.testing.differing import Difference
from jaxloop.testing.reporting import IGNORE, REMEMBER, STATE, advice_on, failed

TOO_MANY, TOO_FEW = Difference("file", "file a", more=True), Difference("file", "file b")


def test_the_message_has_its_places_and_its_advice_by_line() -> None:
    error = failed("Counting is wrong", ["leaf .a: 1\nand more", "leaf .b: 2"], ["do this", "or that"])
    assert isinstance(error, AssertionError)
    assert str(error) == (
        "check_callback: Counting is wrong:\n  leaf .a: 1\n  and more\n  leaf .b: 2\nWhat to do:\n- do this\n- or that"
    )
    assert str(failed("it is wrong", [], ["do this"])) == "check_callback: it is wrong.\nWhat to do:\n- do this"


def test_the_advice_is_for_the_kind_of_callback_and_of_difference() -> None:
    leaf = Difference("leaf", "leaf .a")
    assert advice_on([leaf], on_host=False, compiled=True) == [REMEMBER, IGNORE]
    assert advice_on([leaf], on_host=True, compiled=False) == [STATE, IGNORE]
    (_, cut, _) = advice_on([TOO_MANY], on_host=True, compiled=False)
    (_, durable, _) = advice_on([TOO_FEW], on_host=True, compiled=False)
    assert "cut each file to what it was" in cut
    assert "os.fsync" in durable
