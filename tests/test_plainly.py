"""Tracebacks of mistakes."""

import inspect
import traceback
from pathlib import Path
from typing import Any

import jax
import pytest

import jaxloop as jl
from jaxloop.plainly import plainly
from tests import small

PACKAGE = str(Path(jl.__file__).parent)


def frames_of(error: BaseException) -> list[str]:
    """The function of each frame of this library, and the file of each other one."""
    frames = traceback.extract_tb(error.__traceback__)
    return [frame.name if frame.filename.startswith(PACKAGE) else Path(frame.filename).name for frame in frames]


def mistaken(loop: jl.Loop, event: jl.Event) -> jl.Loop:
    if event is jl.Event.UPDATE_START:
        raise OSError("mine")
    return loop


def test_only_the_call_the_users_lines_and_the_place_of_the_message_are_shown() -> None:
    training_loop = small.training_loop(callbacks=[mistaken])
    with pytest.raises(OSError, match="mine") as caught:
        training_loop.fit(small.model(), 1)
    assert frames_of(caught.value) == ["test_plainly.py", "fit", "test_plainly.py"]
    with pytest.raises(ValueError, match="epochs") as refused:
        training_loop.fit(small.model(), 0)
    assert frames_of(refused.value) == ["test_plainly.py", "fit", "check_positive"]


def test_the_note_of_jax_on_its_own_frames_goes_and_other_notes_stay() -> None:
    with pytest.raises(OSError, match="mine") as caught:
        small.training_loop(callbacks=[mistaken]).fit(small.model(), 1)
    assert caught.value.__notes__ == ["jaxloop: in callback 'mistaken' at UPDATE_START"]


def test_whoever_turns_jaxs_filter_off_sees_all_frames() -> None:
    before = jax.config.jax_traceback_filtering  # type: ignore[attr-defined]
    jax.config.update("jax_traceback_filtering", "off")
    try:
        with pytest.raises(OSError, match="mine") as caught:
            small.training_loop(callbacks=[mistaken]).fit(small.model(), 1)
    finally:
        jax.config.update("jax_traceback_filtering", before)
    assert len(frames_of(caught.value)) > 10


def test_what_an_error_came_of_keeps_the_users_lines() -> None:
    def doubted(loop: jl.Loop, event: jl.Event) -> Any:
        try:
            return mistaken(loop, event)
        except OSError as error:
            raise RuntimeError("mine too") from error

    with pytest.raises(RuntimeError) as caught:
        small.training_loop(callbacks=[doubted]).fit(small.model(), 1)
    assert isinstance(caught.value.__cause__, OSError)
    assert frames_of(caught.value.__cause__) == ["test_plainly.py"] * 2


def test_a_function_keeps_its_name_its_signature_and_what_it_gives() -> None:
    @plainly
    def add(one: int, other: int = 2) -> int:
        """Adds."""
        return one + other

    assert (add(1), add(1, other=1), add.__name__, add.__doc__) == (3, 2, "add", "Adds.")
    assert list(inspect.signature(jl.TrainingLoop).parameters)[:2] == ["training", "validation"]


def test_an_interrupt_is_left_as_it_is() -> None:
    @plainly
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        interrupted()
    assert "plain" in frames_of(caught.value)
