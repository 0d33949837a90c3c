"""The watchdog fires where a fit stands still, and only there."""

import io
import math
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import jaxloop as jl
from jaxloop.callbacks import watchdog as module
from jaxloop.callbacks.watchdog import EXIT_STATUS
from jaxloop.long_work import long_work
from tests import small

BEGIN = """
import os, sys, time
import jax, jax.numpy as jnp, numpy as np
import jaxloop as jl
from tests import small

def fit(*callbacks, epochs=2, **changes):
    callbacks = [jl.callbacks.Watchdog(2), *callbacks]
    return small.training_loop(callbacks=callbacks, **changes).fit(small.model(), epochs)
"""


def run(script: str) -> subprocess.CompletedProcess[str]:
    """Runs a script within a minute. It would sleep for longer, but for the watchdog."""
    return subprocess.run(
        [sys.executable, "-c", BEGIN + script],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=60,
    )


CALLBACK = """
@jl.on_host(jl.Event.EPOCH_END)
def guilty(loop, event):
    time.sleep(100)

fit(guilty)
"""
DATA = """
class Batches:
    def __init__(self):
        self.batches = list(jl.in_batches(small.samples(12), 4))

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        yield self.batches[0]
        guilty()

def guilty():
    time.sleep(100)

fit(training=[Batches()] * 2)
"""
STEP = """
def guilty(loss):
    time.sleep(100)
    return loss

def hang(loop, event):
    if event is jl.Event.BATCH_END and loop.phase is jl.Phase.TRAINING:
        loss = jax.pure_callback(guilty, jax.ShapeDtypeStruct((), jnp.float32), loop.stats["loss"])
        return loop.record("slow", loss)
    return loop

fit(hang)
"""
CLOSE = """
class Close:
    host_declaration = jl.on_host(jl.Event.FIT_END)(lambda loop, event: None).host_declaration

    def __call__(self, loop, event):
        pass

    def close(self):
        guilty()

def guilty():
    time.sleep(100)

small.training_loop(callbacks=[Close(), jl.callbacks.Watchdog(2)]).fit(small.model(), 2)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "last"),
    [
        (CALLBACK, "EPOCH_END of epoch 1 (counted from 1), and 0 rows since"),
        (DATA, "'Compiled training_step in"),
        (STEP, "'Compiled training_step in"),
        (CLOSE, "FIT_END, and 0 rows since"),
    ],
    ids=["a callback", "the data", "a step", "a callback that is closed"],
)
def test_the_stacks_show_who_stands_still_and_the_process_ends(script: str, last: str):
    done = run(script)
    assert done.returncode == EXIT_STATUS == 70
    assert "\njaxloop: Watchdog: no step and no event for 2 seconds; the last was" in done.stderr
    assert last in done.stderr
    assert " in guilty\n" in done.stderr
    assert done.stderr.endswith("jaxloop: Watchdog: the fit stands still. The process exits with status 70.\n")


@pytest.mark.slow
def test_it_fires_in_a_fit_that_it_sees_from_its_middle_on():
    done = run(
        """
loop, _ = small.training_loop().fit(small.model(), 1)
watch = jl.callbacks.Watchdog(1).bind(None)
watch(loop, jl.Event.VALIDATION_END)
time.sleep(100)
"""
    )
    assert done.returncode == EXIT_STATUS
    assert "the last was VALIDATION_END of epoch 2 (counted from 1), and 0 rows since" in done.stderr


@pytest.mark.slow
def test_a_slow_compile_is_no_hang_before_the_first_step_or_in_the_middle_of_a_phase():
    done = run(
        """
compile, seconds = jax.stages.Lowered.compile, []

def slow(*arguments, **options):
    began = time.monotonic()
    time.sleep(3)
    result = compile(*arguments, **options)
    seconds.append(time.monotonic() - began)
    return result

jax.stages.Lowered.compile = slow
fit(epochs=1, steps_per_dispatch=2, validation=None)  # a dispatch of two steps and one of one
print(len(seconds), min(seconds) >= 3)
"""
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "2 True\n", "")


@pytest.mark.slow
def test_steps_that_take_longer_than_half_the_time_are_no_hang():
    done = run(
        """
@jl.on_host(jl.Event.BATCH_END)
def slow(loop, event):
    time.sleep(1.1)

fit(slow, epochs=1)
"""
    )
    assert (done.returncode, done.stderr) == (0, "")


def watch_of(file: io.StringIO, seconds: float = 1.0):
    watch = jl.callbacks.Watchdog(seconds, file).bind(None)  # type: ignore[arg-type]
    watch.notice("begun")
    return watch


def until(condition, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_fit_that_goes_on_is_not_ended_and_that_is_said():
    file = io.StringIO()
    watch = watch_of(file)
    until(lambda: "Thread MainThread" in file.getvalue())
    assert "in until" in file.getvalue()  # with names, where a stream has no descriptor
    watch.notice("goes on")
    until(lambda: "goes on, after" in file.getvalue())
    watch.close()


def test_long_work_does_not_count():
    file = io.StringIO()
    with long_work():
        watch = watch_of(file)
        time.sleep(1.5)
    watch.close()
    assert file.getvalue() == ""


def test_time_in_which_the_process_was_stopped_does_not_count(clock_of, monkeypatch):
    clock = clock_of(module)
    clock.monotonic = lambda: clock.now
    file = io.StringIO()
    watch = watch_of(file, seconds=1.0)
    clock.now += 1000
    time.sleep(0.5)  # five polls, of which each sees at most two polls pass
    watch.close()
    assert file.getvalue() == ""


@pytest.mark.parametrize("fails", [False, True], ids=["ends well", "fails"])
def test_no_watch_outlives_its_fit(fails: bool):
    @jl.on_host(jl.Event.EPOCH_END)
    def end(loop, event):
        watching.append(sum(thread.name == "jaxloop watchdog" for thread in threading.enumerate()))
        if fails:
            raise KeyError

    watching: list[int] = []
    training_loop = small.training_loop(callbacks=[jl.callbacks.Watchdog(60), end])
    for _ in range(2):
        if fails:
            with pytest.raises(KeyError):
                training_loop.fit(small.model(), 1)
        else:
            training_loop.fit(small.model(), 1)
    assert watching == [1, 1]
    assert not [thread for thread in threading.enumerate() if thread.name == "jaxloop watchdog"]


def test_a_watch_that_was_not_begun_needs_no_thread_and_no_end():
    watch = jl.callbacks.Watchdog(60).bind(None)  # type: ignore[arg-type]
    watch.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "jaxloop watchdog"]


@pytest.mark.slow
def test_a_forked_child_is_not_watched():
    done = run(
        """
watch = jl.callbacks.Watchdog(1).bind(None)
watch.notice("begun")
child = os.fork()
if not child:
    watch.close()
    time.sleep(3)
    os._exit(4)
watch.close()
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    )
    assert (done.returncode, done.stdout) == (0, "4\n"), done.stderr


@pytest.mark.slow
def test_a_reader_that_does_not_read_cannot_keep_the_process_from_its_end():
    done = run(
        """
reading, writing = os.pipe()
os.set_blocking(writing, False)
try:
    while True:
        os.write(writing, bytes(4096))
except BlockingIOError:
    os.set_blocking(writing, True)
watch = jl.callbacks.Watchdog(1, os.fdopen(writing, "w")).bind(None)
watch.notice("begun")
time.sleep(100)
"""
    )
    assert done.returncode == EXIT_STATUS


@pytest.mark.parametrize("seconds", [0, 0.5, -3, math.inf, math.nan, True, "60", None])
def test_the_seconds_must_make_sense(seconds):
    with pytest.raises(ValueError, match=r"Watchdog: `seconds` must be a finite number of at least 1, .*, got "):
        jl.callbacks.Watchdog(seconds)


def test_it_says_what_it_is():
    assert repr(jl.callbacks.Watchdog(600)) == "Watchdog(600)"
