"""Contestants in separate processes. Each trains when it is told to, and reports the time."""

import contextlib
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.contestants import CONTESTANTS, Contestant, Outcome, Turn
from benchmarks.workloads import WORKLOADS, Workload

_SECONDS_TO_END = 10


def timed(turn: Turn) -> tuple[float, Outcome]:
    """The seconds of a turn until its parameters are there. The garbage of earlier turns is collected first."""
    gc.collect()
    start = time.perf_counter()
    outcome = turn()
    jax.block_until_ready(outcome.params)
    return time.perf_counter() - start, outcome


class Worker:
    """A process in which one contestant waits for its turns. If it is not closed, it runs until this process ends.

    Args:
      contestant: the contestant.
      workload: what is trained; the process makes its own copy by the name.
      epochs: the number of epochs in a turn.
      steps: the most steps in an epoch, or None.
      compile_cache: the folder of JAX's persistent compile cache, or None.

    Raises:
      RuntimeError: from `ready` and `turn`: the process has failed; the message ends with its output.
    """

    def __init__(
        self,
        contestant: Contestant,
        workload: Workload,
        *,
        epochs: int,
        steps: int | None,
        compile_cache: Path | None = None,
    ):
        self._name = f"{workload.name}/{contestant.name}"
        self._folder = tempfile.TemporaryDirectory(prefix="benchmarks-")
        self._errors = (Path(self._folder.name) / "stderr").open("w+b")
        self._told_params = False
        arguments = [workload.name, contestant.name, str(epochs), str(steps or 0)]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.turns", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=os.environ
            | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
            | _quiet()
            | _caching(compile_cache),
        )

    def ready(self) -> None:
        """Waits until everything is imported and set up."""
        self._answer()

    def turn(self) -> tuple[float, Outcome]:
        """The seconds of one turn, and its outcome. Only the first has parameters, since they are always the same."""
        path = Path(self._folder.name) / "params.npz"
        answer = self._ask({"params": None if self._told_params else str(path)})
        params = None
        if path.exists():
            with np.load(path, allow_pickle=False) as arrays:
                params = [arrays[f"arr_{index}"] for index in range(len(arrays.files))]
            path.unlink()
        self._told_params = True
        return answer["seconds"], Outcome(params, np.array(answer["loss"]), np.array(answer["accuracy"]))

    def close(self) -> None:
        """Ends the process, by force if it does not end by itself."""
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        try:
            self._process.wait(_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._errors.close()
        self._folder.cleanup()

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # the process is gone, and its output says why
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line:
            return json.loads(line)
        self._process.wait()
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip()[-2000:]
        raise RuntimeError(f"{self._name}: its process has ended with status {self._process.returncode}:\n{said}")


def _quiet() -> dict[str, str]:
    """Options that let several processes share a GPU, and that silence the messages of libraries."""
    return {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_CPP_MIN_LOG_LEVEL": "2"}


def turn_in_new_process(worker: Callable[[], Worker]) -> tuple[float, Outcome]:
    """A turn of a new process, which has trained nothing before, so that it includes compiling."""
    with contextlib.closing(worker()) as one:
        one.ready()
        return one.turn()


def _caching(folder: Path | None) -> dict[str, str]:
    """Options that keep every compiled program in `folder`, however small and fast it is."""
    if folder is None:
        return {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    thresholds = ("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES")
    return {"JAX_COMPILATION_CACHE_DIR": str(folder), **dict.fromkeys(thresholds, "0")}


def main(arguments: Sequence[str]) -> None:
    """The worker's side: it prepares, and then takes a turn for each line that it reads."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not come between the replies
    workload_name, contestant_name, epochs, steps = arguments
    workload = WORKLOADS[workload_name]()
    workload = workload.shortened(int(steps)) if int(steps) else workload
    contestant = next(one for one in CONTESTANTS if one.name == contestant_name)
    turn = contestant.prepare(workload, int(epochs))
    jax.block_until_ready(jax.numpy.zeros(1) + 1)  # starts the backend, which must not count in the first turn
    _reply(replies, {})
    for line in sys.stdin:
        seconds, outcome = timed(turn)
        path = json.loads(line)["params"]
        if path is not None and outcome.params is not None:
            np.savez(path, *map(np.asarray, jax.tree.leaves(outcome.params)))
        _reply(replies, {"seconds": seconds, "loss": list(outcome.loss), "accuracy": list(outcome.accuracy)})


def _reply(replies: Any, answer: dict[str, Any]) -> None:
    replies.write(json.dumps(answer, default=float) + "\n")
    replies.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
