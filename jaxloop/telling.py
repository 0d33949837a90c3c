"""Warnings that end nothing: standard error may be closed, or its disk full, as any other file."""

import warnings


def warn(message: str, *, stacklevel: int = 1) -> None:
    """Warns of what went wrong beside the training; it is lost where standard error cannot be written either.

    Args:
      message: what happened, and what it means for the fit.
      stacklevel: as in `warnings.warn`, seen from the caller.

    Raises:
      RuntimeWarning: warnings are errors here.
    """
    try:
        warnings.warn(message, RuntimeWarning, stacklevel=stacklevel + 1)
    except RuntimeWarning:
        raise
    except Exception:  # whatever stands in for standard error
        return
