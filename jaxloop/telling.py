"""Warnings that do not end the fit: standard error can be closed or on a full disk, like any other file."""

import sys
import warnings
from pathlib import Path

_PACKAGE = str(Path(__file__).parent)


def warn(message: str, *, stacklevel: int = 1) -> None:
    """Warns of a fault outside of the training. If standard error cannot be written either, the warning is lost.

    Args:
      message: what happened, and what it means for the fit.
      stacklevel: as in `warnings.warn`, seen from the caller.

    Raises:
      RuntimeWarning: the user has turned warnings into errors.
    """
    try:
        warnings.warn(message, RuntimeWarning, stacklevel=stacklevel + 1)
    except RuntimeWarning:
        raise
    except Exception:  # any object can replace standard error, and raise anything
        return


def advise(message: str) -> None:
    """Warns of what is likely a mistake, as a `UserWarning` at the user's own line. Python tells each line of it once.

    Args:
      message: what is likely wrong, and the fix.

    Raises:
      UserWarning: the user has turned warnings into errors.
    """
    frame, depth = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame, depth = frame.f_back, depth + 1
    try:
        warnings.warn(message, UserWarning, stacklevel=depth)
    except UserWarning:
        raise
    except Exception:  # as in `warn`
        return
