"""A child's pipes to its parent: it stands still at each point that it announces, until it is answered."""

import os
import threading

#: The environment variable that holds the descriptors: where points are written, and where answers are read.
PIPES = "JAXLOOP_TEST_PIPES"
_one_at_once = threading.Lock()
_process = os.getpid()


def announce(point: str) -> None:
    """Says that this process is at `point`, and waits for the answer. Without a parent, and in a fork, does nothing."""
    pipes = os.environ.get(PIPES)
    if pipes is None or os.getpid() != _process:
        return
    said, answers = map(int, pipes.split(","))
    with _one_at_once:
        os.write(said, f"{point}\n".encode())
        if not os.read(answers, 1):
            os._exit(99)  # the parent is gone
