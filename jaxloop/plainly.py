"""Tracebacks of mistakes: the user's own lines and the message, without the many frames between them."""

import functools
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

import jax

from jaxloop.frames import OF_JAX, OURS

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
_NOTE_OF_JAX = "For simplicity, JAX has removed its internal frames"


def plainly(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """`function`, whose exceptions show its own frame, the user's, and where they were raised.

    The frames between belong to the engine and to JAX, and a person who has made a mistake in a callback or a model
    cannot use them. Type, message, notes, causes and attributes stay; only JAX's note on its own frames goes. With
    `jax_traceback_filtering` set to `"off"` everything stays, as JAX's own frames do then.
    """

    @functools.wraps(function)
    def plain(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        with _Shortening():
            return function(*args, **kwargs)

    return plain


class _Shortening:
    """Shortens what is raised in its block. Not made by `contextlib`, which puts the old traceback back."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, traceback: TracebackType | None) -> None:
        config: Any = jax.config
        if not isinstance(error, Exception) or config.jax_traceback_filtering == "off":
            return
        entered = traceback.tb_next if traceback is not None else None  # without the frame of `plain`
        error.__traceback__ = _linked(_shown(entered, first=True))
        _without_note(error)
        for other in _chain(error):
            other.__traceback__ = _linked(_shown(other.__traceback__, first=False))
            _without_note(other)


def _shown(traceback: TracebackType | None, *, first: bool) -> list[TracebackType]:
    """The frames to show: the user's, the innermost but for JAX's, and the first if it is to be shown."""
    frames: list[TracebackType] = []
    while traceback is not None:
        frames.append(traceback)
        traceback = traceback.tb_next
    frames = [frame for frame in frames if not _is_in(frame, OF_JAX)] or frames
    last = len(frames) - 1
    return [
        frame
        for index, frame in enumerate(frames)
        if index == last or (first and index == 0) or not _is_in(frame, OURS)
    ]


def _is_in(frame: TracebackType, places: tuple[str, ...]) -> bool:
    return frame.tb_frame.f_code.co_filename.startswith(places)


def _linked(frames: list[TracebackType]) -> TracebackType | None:
    """A traceback of these frames. They are copied, since others may hold them."""
    linked = None
    for frame in reversed(frames):
        linked = TracebackType(linked, frame.tb_frame, frame.tb_lasti, frame.tb_lineno)
    return linked


def _chain(error: BaseException) -> Iterator[BaseException]:
    """What `error` came of, each once."""
    seen, ahead = {id(error)}, [error.__cause__, error.__context__]
    while ahead:
        other = ahead.pop()
        if other is not None and id(other) not in seen:
            seen.add(id(other))
            yield other
            ahead += [other.__cause__, other.__context__]


def _without_note(error: BaseException) -> None:
    notes = getattr(error, "__notes__", [])
    kept = [note for note in notes if _NOTE_OF_JAX not in note]
    if len(kept) < len(notes):
        error.__notes__ = kept
