"""Leaving: a process whose run has failed ends without waiting for the others, which wait for it."""

import atexit
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import jax

from jaxloop.engine.agreement import known_everywhere

_GRACE = 3.0  # seconds: the first process takes the others with it, and they may be about to say why they fail

NOTE = (
    "jaxloop: the run is on several processes. The others wait for this one, or have failed before it: look at what "
    "each of them has written. If nothing catches this exception, this process ends at once, and the others with it"
)


@contextmanager
def leaving(several: bool) -> Iterator[None]:
    """Notes on what a run on several processes raises that the others may not know of it.

    At exit JAX would wait for the other processes, for minutes, and they wait for this one in a step. If the exception
    ends the program, the process leaves without that. So the others notice that it is gone.
    """
    try:
        yield
    except BaseException as error:
        if several and not known_everywhere(error):
            error.add_note(NOTE)
            error.others_wait = True  # type: ignore[attr-defined]
        raise


def _ends_the_program() -> bool:
    """Whether what nobody has caught came of such a run."""
    error: BaseException | None = getattr(sys, "last_value", None)
    while error is not None:
        if getattr(error, "others_wait", False):
            return True
        error = error.__cause__ or error.__context__
    return False


def _leave() -> None:
    if not _ends_the_program():
        return
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, OSError, ValueError):
            continue  # there is none, or it is closed
    if jax.process_index() == 0:
        time.sleep(_GRACE)
    os._exit(130 if isinstance(sys.last_value, KeyboardInterrupt) else 1)


atexit.register(_leave)  # hooks are called last first: this one before JAX's, and after those that are added later
