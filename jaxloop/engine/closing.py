"""Host callbacks are bound before a fit and closed after it: all of them, whatever fails."""

from collections.abc import Sequence
from typing import Any

from jaxloop.callback import bound, name_of
from jaxloop.events import Plan
from jaxloop.telling import warn


def bound_or_closed(callbacks: Sequence[Any], plan: Plan) -> tuple[Any, ...]:
    """The host callbacks, each bound to `plan` if it has `bind`. If one fails, those before it are closed."""
    done: list[Any] = []
    for callback in callbacks:
        try:
            done += bound((callback,), plan)
        except BaseException as error:
            error.add_note(f"jaxloop: while callback {name_of(callback)!r} was bound to the plan of the fit")
            close_all(done, error)
            raise
    return tuple(done)


def close_all(callbacks: Sequence[Any], error: BaseException | None, how: str = "failed") -> None:
    """Closes every callback that has `close`, even if some of them fail. Those that have `ended` are told how first.

    Args:
      callbacks: the host callbacks of a fit.
      how: how it ended, as `History.stopped` says, or `"failed"`.
      error: the exception that ended the fit. It stays the one that is raised; failures to close are noted on it. None
        for a fit that ended well. Its result must not be lost, so that failures to close are only warned of.

    Raises:
      RuntimeWarning: something failed, and warnings are errors.
      BaseException: what was raised without an `error` and is no `Exception`, such as KeyboardInterrupt.
    """
    failures: list[tuple[str, BaseException]] = []
    for callback in callbacks:
        for method, arguments in (("ended", (how,)), ("close", ())):
            try:
                if hasattr(callback, method):
                    getattr(callback, method)(*arguments)
            except BaseException as failure:
                failures.append((name_of(callback), failure))
    for name, failure in failures:
        if error is not None:
            error.add_note(f"jaxloop: callback {name!r} could not be closed either, {failure!r}")
        elif not isinstance(failure, Exception):
            raise failure
        else:
            warn(
                f"fit: callback {name!r} could not be closed, {failure!r}. The fit is over, and its loop and history "
                "are whole; what this callback has written may not be.",
            )
