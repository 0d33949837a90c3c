"""Warnings that do not end the fit: standard error can be closed or on a full disk, like any other file."""

import functools
import sys
import warnings

from jaxloop.frames import OF_JAX, OURS

#: What stands between a warning and the user's own line: this package, and what calls back into it.
_BETWEEN = (*OURS, *OF_JAX, functools.__file__)


def warn(message: str) -> None:
    """Warns of a fault outside of the training, as a `RuntimeWarning` at the user's own line.

    If standard error cannot be written either, the warning is lost.

    Args:
      message: what happened, and what it means for the fit.

    Raises:
      RuntimeWarning: the user has turned warnings into errors.
    """
    _warn(message, RuntimeWarning)


def advise(message: str) -> None:
    """Warns of what is likely a mistake, as a `UserWarning`, else as `warn`. Python tells each line of it once.

    Args:
      message: what is likely wrong, and the fix.

    Raises:
      UserWarning: the user has turned warnings into errors.
    """
    _warn(message, UserWarning)


def _warn(message: str, category: type[Warning]) -> None:
    frame, depth = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_BETWEEN):
        frame, depth = frame.f_back, depth + 1
    try:
        warnings.warn(message, category, stacklevel=depth)
    except category:
        raise
    except Exception:  # any object can replace standard error, and raise anything
        return
