"""Warnings that do not end the fit: standard error can be closed or on a full disk, like any other file."""

import warnings


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
