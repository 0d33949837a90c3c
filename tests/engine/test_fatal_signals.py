"""Signals that end a process: a second SIGTERM, one that nobody handled, and those of forked children."""

import os
import signal
import subprocess
import sys

import pytest

from jaxloop.engine import interrupts as module

#: Loads the module by itself: it needs no JAX, and a process with one thread is safe to fork.
ALONE = f"""
import importlib.util, multiprocessing, os, signal, sys, time
spec = importlib.util.spec_from_file_location("interrupts", {module.__file__!r})
interrupts = importlib.util.module_from_spec(spec)
spec.loader.exec_module(interrupts)
Interrupts = interrupts.Interrupts
signal.signal(signal.SIGINT, signal.default_int_handler)

def status(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

reading, writing = os.pipe()

def wait():
    os.read(reading, 1)
    time.sleep(0.2)  # Python would run a handler only after a sleep that begins just after the signal

def sleeps():
    os.write(writing, b".")
    time.sleep(20)
    os._exit(0)
"""


def run(script: str) -> subprocess.CompletedProcess[str]:
    """Runs the script within 30 seconds. What it has forked is killed with it if that fails."""
    process = subprocess.Popen(
        [sys.executable, "-c", ALONE + script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        stdout, stderr = process.communicate(timeout=30)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise
    return subprocess.CompletedProcess(script, process.returncode, stdout, stderr)


def test_a_second_sigterm_ends_the_process_at_once():
    done = run("""
with Interrupts(terminates=True) as entered:
    os.kill(os.getpid(), signal.SIGTERM)
    print(entered.terminated, flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    print("not reached", flush=True)
""")
    assert (done.returncode, done.stdout) == (-signal.SIGTERM, "True\n")


def test_a_sigterm_that_nobody_handled_ends_the_process_after_the_fit():
    done = run("""
with Interrupts(terminates=True):
    os.kill(os.getpid(), signal.SIGTERM)
    print("to its end", flush=True)
print("not reached", flush=True)
""")
    assert (done.returncode, done.stdout) == (-signal.SIGTERM, "to its end\n")


def test_an_exception_is_not_lost_to_a_sigterm_that_nobody_handled():
    done = run("""
with Interrupts(terminates=True):
    os.kill(os.getpid(), signal.SIGTERM)
    raise KeyError("the fault")
""")
    assert done.returncode == 1
    assert "KeyError: 'the fault'\njaxloop: SIGTERM had come too" in done.stderr


@pytest.mark.parametrize("forked", ["os.fork()", "ctypes.PyDLL(None).fork()"], ids=["by Python", "by C"])
def test_a_forked_child_dies_of_sigterm_and_says_nothing(forked: str):
    done = run(f"""
import ctypes
with Interrupts(terminates=True) as entered:
    os.kill(os.getpid(), signal.SIGTERM)  # even one whose parent has had a signal
    child = {forked} or sleeps()
    wait()
    os.kill(child, signal.SIGTERM)
    print(status(child), flush=True)
    entered.handled()
""")
    assert (done.returncode, done.stdout) == (0, f"{-signal.SIGTERM}\n")
    assert done.stderr.count("jaxloop") == 1


@pytest.mark.parametrize("forked", ["os.fork()", "ctypes.PyDLL(None).fork()"], ids=["by Python", "by C"])
def test_a_forked_child_is_interrupted_by_sigint_as_python_does(forked: str):
    done = run(f"""
import ctypes
with Interrupts(terminates=True) as entered:
    child = {forked}
    if not child:
        try:
            sleeps()
        except KeyboardInterrupt:
            os._exit(3)
    wait()
    os.kill(child, signal.SIGINT)
    print(status(child), entered.pending, flush=True)
""")
    assert (done.returncode, done.stdout, done.stderr) == (0, "3 False\n", "")


def test_a_forked_child_has_the_users_handler():
    done = run("""
signal.signal(signal.SIGTERM, lambda number, frame: os._exit(5))
with Interrupts(terminates=True):
    child = os.fork() or sleeps()
    wait()
    os.kill(child, signal.SIGTERM)
    print(status(child), flush=True)
""")
    assert (done.returncode, done.stdout) == (0, "5\n")


def test_a_child_that_is_stuck_in_c_dies_of_sigterm():
    done = run("""
import ctypes
def stuck():  # a thread that waits for its own lock never comes back to Python, where handlers run
    lock = ctypes.create_string_buffer(64)
    os.write(writing, b".")
    for _ in range(2):
        ctypes.PyDLL(None).pthread_mutex_lock(lock)

with Interrupts(terminates=True):
    child = os.fork() or stuck()
    wait()
    os.kill(child, signal.SIGTERM)
    print(status(child), flush=True)
""")
    assert (done.returncode, done.stdout) == (0, f"{-signal.SIGTERM}\n")


def test_a_child_that_leaves_the_fit_does_not_take_the_signals_of_its_parent():
    done = run("""
child = -1
with Interrupts(terminates=True) as entered:
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGINT)
    child = os.fork()
    if child:
        print(status(child), flush=True)
        entered.handled()
if not child:
    os._exit(4)
""")
    assert (done.returncode, done.stdout) == (-signal.SIGINT, "4\n")  # the parent's own Ctrl-C is raised
    assert done.stderr.rstrip().endswith("KeyboardInterrupt")


def test_workers_of_a_loader_end_as_they_would_have():
    done = run("""
with Interrupts(terminates=True) as entered:
    worker = multiprocessing.get_context("fork").Process(target=sleeps)
    worker.start()
    wait()
    worker.terminate()
    worker.join(10)
    print(worker.exitcode, entered.pending, flush=True)
""")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{-signal.SIGTERM} False\n", "")
