"""Names that a loop does not have."""

from jaxloop.missing import note_missing


def notes_of(error: BaseException) -> str:
    return " ".join(getattr(error, "__notes__", []))


def test_a_missing_statistic_is_told_with_those_there_are() -> None:
    error = KeyError("val_loss")
    note_missing(error, ["validation_loss", "loss"])
    assert "there are loss, validation_loss. Check `metrics`, or read another." in notes_of(error)
    assert "callback_state" not in notes_of(error)


def test_without_validation_that_is_the_fix() -> None:
    error = KeyError("validation_loss")
    note_missing(error, ["loss"], {"mine"})
    assert "Give the training loop `validation`, or read another." in notes_of(error)
    assert "made at FIT_START" in notes_of(error)


def test_other_errors_and_keys_that_are_there_have_no_note() -> None:
    for error in (ValueError("loss"), KeyError(3), KeyError(), KeyError("loss"), KeyError("mine")):
        note_missing(error, ["loss", "learning_rate"], {"loss", "mine"})
        assert notes_of(error) == ""
