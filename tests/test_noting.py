"""Notes on exceptions."""

from jaxloop.noting import note


def test_a_note_is_made_once() -> None:
    error = ValueError("wrong")
    for text in ("here", "there", "here"):
        note(error, text)
    assert error.__notes__ == ["here", "there"]
