"""Runs on several processes: they compute what one device does, and stop, are saved and fail together."""

import json
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.engine import process_fits as fits
from tests.processes import Ran, check_all_ended_well, run_on_processes

BEGIN = """
import json
from pathlib import Path
import numpy as np
import pytest
import jaxloop as jl
from jaxloop import Event, Scope
from tests import small
from tests.engine import process_fits as fits
me, folder = jax.process_index(), Path(sys.argv[1]) if sys.argv[1:] else None
"""
# A check that fails ends the process now: at exit JAX would wait for the other one. One that hangs says where.
CHECKING = """
import faulthandler, os, traceback
faulthandler.dump_traceback_later({seconds}, exit=True)

def failed(*error):
    traceback.print_exception(*error)
    sys.stderr.flush()
    os._exit(1)

sys.excepthook = failed
"""


def told_by(script: str, *arguments: Any, devices: int = 4, timeout: float = 200) -> list[Any]:
    """What each process has found."""
    end = "\nprint(json.dumps(found), flush=True)\n" if "found" in script else "\nprint('null')\n"
    script = BEGIN + CHECKING.format(seconds=timeout - 10) + script + end
    ran = run_on_processes(script, devices=devices, timeout=timeout, arguments=list(map(str, arguments)))
    check_all_ended_well(ran)
    return [json.loads(one.stdout.splitlines()[-1]) for one in ran]


@pytest.mark.slow
def test_two_processes_compute_what_one_device_does(tmp_path) -> None:
    script = "found = fits.few()\nfits.check_who_is_called(folder)\nfits.check_one_all_reduce()"
    first, second = told_by(script, tmp_path)
    assert first == second
    fits.check_close(first, fits.few())


@pytest.mark.exhaustive
@pytest.mark.parametrize("devices", [1, 4])
def test_two_processes_compute_what_one_device_does_in_every_way(devices) -> None:
    first, second = told_by("found = fits.more()\nfits.check_stages_apart()", devices=devices, timeout=500)
    assert first == second
    fits.check_close(first, fits.more())


CANCELS = """
found = fits.cancelled([Event.BATCH_END], [Scope.FIT], [1, 4])
found |= fits.cancelled([Event.UPDATE_START], [Scope.FIT], [1])
found |= fits.cancelled([Event.VALIDATION_START], [Scope.VALIDATION], [4])
"""


@pytest.mark.slow
def test_what_one_process_cancels_ends_the_run_of_all_at_one_step() -> None:
    first, second = told_by(CANCELS)
    assert first == second
    _check_ends(first)
    # An observer's cancel is heard two dispatches later, or at the end of the phase.
    steps = {name: first[f"BATCH_END FIT {name}"][".step"][0] for name in ("1 stats", "4 stats", "1 loop", "4 loop")}
    assert steps["1 loop"] == steps["4 loop"] == 4
    assert 3 < steps["1 stats"] <= 6
    assert 4 <= steps["4 stats"] <= 6


def _check_ends(found: dict[str, Any]) -> None:
    """What does not come of rows that are read late ends just where it does on one device."""
    for name, run in found.items():
        event, scope, steps, reads = name.split()
        if (event, reads) != ("BATCH_END", "stats"):
            expected = fits.cancelled([fits.Event[event]], [fits.Scope[scope]], [int(steps)], [reads])[name]
            fits.check_close(run, expected, name)


ALL_CANCELS = """
events = [event for event in Event if event is not Event.FIT_START]
found = fits.cancelled(events, [Scope.FIT, Scope.EPOCH, Scope.TRAINING, Scope.VALIDATION], [1])
"""


@pytest.mark.exhaustive
def test_one_process_can_cancel_every_scope_at_every_event() -> None:
    first, second = told_by(ALL_CANCELS, timeout=600)
    assert first == second
    _check_ends(first)


DIFFERENCES = """
@jl.on_host(Event.UPDATE_START)
def cutting(loop, event):
    pass

def pairs(count, size):
    return [list(jl.in_batches(small.samples(count), size))] * 2

def data(**options):
    return jl.TrainingEpochs(**(dict(samples=small.samples(48), batch_size=8) | options))

import optax
losses = [jl.losses.softmax_cross_entropy, lambda output, target: 2 * fits.plain(output, target)]
on = jl.data_parallel()
other = fits.training_loop(optimizer=optax.sgd(0.1)).fit(small.model(me), 1, on=jax.local_devices()[0])[0]
reused = fits.training_loop(loss_fn=losses[me])
cases = {
    "model": dict(given=small.model(me)),
    "loop": dict(given=other, optimizer=optax.sgd(0.1)),
    "kind": dict(given=[small.model(), fits.factory][me]),
    "function": dict(given=lambda: small.model(me)),
    "seed": dict(seed=me),
    "epochs": dict(epochs=1 + me),
    "size": dict(training=data(batch_size=8 + 8 * me)),
    "data": dict(training=data(samples=small.samples(48, seed=me))),
    "order": dict(training=data(seed=me)),
    "count": dict(training=data(samples=small.samples(48 + 8 * me))),
    "shares": dict(training=pairs(48, 4 + 4 * me), limit_batches=2),
    "loaders": dict(training=pairs(48 + 4 * me, 4)),
    "validation": dict(validation=[None, jl.in_batches(small.samples(16), 8)][me]),
    "steps": dict(steps_per_dispatch=1 + me),
    "metrics": dict(metrics=["accuracy"][me:]),
    "compiled": dict(callbacks=[small.traced()][me:]),
    "host": dict(callbacks=[cutting][me:]),
    "checkpoint": dict(callbacks=[jl.callbacks.Checkpoint(folder / "none")][me:]),
    "rate": dict(optimizer=optax.sgd(0.1 + me)),
    "injected": dict(optimizer=optax.inject_hyperparams(optax.sgd)(learning_rate=0.1 + me)),
    "loss": dict(loss_fn=losses[me]),
}
found = {}
for name, case in cases.items():
    with pytest.raises(ValueError) as raised:
        fits.fitted(case.pop("on", on), case.pop("callbacks", []), **case)
    found[name] = str(raised.value)
for time in range(2):
    with pytest.raises(ValueError, match="training_step"):
        reused.fit(small.model(), 1, on=on)
wrong = [(batch[0] * [1, np.nan][me], batch[1]) for batch in jl.in_batches(small.samples(16), 8)]
with pytest.raises(ValueError) as raised:
    fits.fitted(on, training=[wrong, wrong])
found["trained"] = str(raised.value)
with pytest.raises(ValueError) as raised:
    fits.training_loop().evaluate(small.model(), wrong, on=on)
found["evaluated"] = str(raised.value)
assert not (folder / "none").exists()
fits.fitted(on, epochs=1)  # they are in step still
"""
NAMED = {
    "model": "model.params['kernel'] must be the same on every process: process 0 has ",
    "loop": "loop.model.params['bias'] must",
    "kind": "what it begins with must be the same on every process: process 0 has 'a model'; process 1 has 'a func",
    "function": "the program born, with all numbers",
    "seed": "fit: seed must be the same on every process: process 0 has 0; process 1 has 1. Give each process the same",
    "epochs": "epochs must",
    "size": "steps_per_epoch must be the same on every process: process 0 has 6; process 1 has 3.",
    "data": "training: samples and their order must",
    "order": "training must",
    "count": "steps_per_epoch must",
    "shares": "batch must",
    "loaders": "steps_per_epoch must",
    "validation": "validation must",
    "steps": "steps_per_dispatch must",
    "metrics": "metrics must",
    "compiled": "callbacks must be the same on every process: process 0 has ['traced.trace']; process 1 has []",
    "host": "host callbacks must be the same on every process: process 0 has ['cutting at UPDATE_START (stats)']; proc",
    "checkpoint": "host callbacks must",
    "rate": "the program training_step, with all numbers that code has put into it, such as a learning rate, must",
    "injected": "the program begin, with",
    "loss": "the program training_step, with",
    "trained": "training: batch 0's input is NaN",
    "evaluated": "batches: batch 0's input is NaN",
}


@pytest.mark.slow
def test_processes_that_differ_are_refused_on_each_by_the_name_of_what_differs(tmp_path) -> None:
    first, second = told_by(DIFFERENCES, tmp_path)
    assert first == second
    assert first.keys() == NAMED.keys()
    for name, part in NAMED.items():
        assert part in first[name], name


SAVES = """
import signal, warnings
from jax.experimental import multihost_utils
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
fits.check_preempted(folder / "one", "epoch", [1], 1)
fits.check_preempted(folder / "both", 2, [0, 1], 4)
saved = folder / "both/broken/saved"
with pytest.raises(ValueError, match="that it sees in `resume_from` must be the same on every process: process 0 has"):
    fits.saved(folder / "both/broken", 2, steps_per_dispatch=4, resume_from=saved if me == 0 else folder / "elsewhere")
with pytest.raises(jl.errors.CheckpointError, match="holds the checkpoints of a run"):
    fits.saved(folder / "both/broken", 2)
for index, callbacks in enumerate([[], [jl.callbacks.Checkpoint(folder / "interrupted")]]):
    with pytest.raises(KeyboardInterrupt) as raised:
        fits.fitted(fits.places()["data"], [fits.signalled(signal.SIGINT, [1]), *callbacks], epochs=3)
    assert ("the run was saved first" in str(raised.value.__notes__)) == bool(index)
assert len(list((folder / "interrupted").glob("0*"))) == 2, "after the first epoch, and at the interrupt"
if me == 0:
    newest = max(path for path in saved.iterdir() if path.name.isdigit())
    array = max((path for path in newest.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    content = bytearray(array.read_bytes())
    content[len(content) // 2] ^= 1
    array.write_bytes(content)
multihost_utils.sync_global_devices("damaged")
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    again = fits.saved(folder / "both/broken", 2, steps_per_dispatch=4, resume_from=saved)
found = [again, [str(each.message) for each in caught if "is not used" in str(each.message)]]
"""


@pytest.mark.slow
def test_a_run_is_saved_and_goes_on_in_all_processes(tmp_path) -> None:
    (first, warned), (second, warned_too) = told_by(SAVES, tmp_path)
    assert first == second
    assert first["stopped"] == "completed"
    assert len(warned) == len(warned_too) == 1


KILLED = """
import os, threading
@jl.on_host(Event.FIT_START, every_process=True)
def begins(loop, event):
    threading.Timer(float(sys.argv[2]), lambda: os.kill(os.getpid(), 9)).start()

class Slowly:
    host_declaration = jl.on_host(Event.BATCH_END, every_process=True)(lambda loop, event: None).host_declaration

    def state(self):
        return {}

    def resume(self, loop, state):
        begins(loop, Event.FIT_START)

    def __call__(self, loop, event):
        import time
        time.sleep(0.05)

callbacks = [begins, Slowly()] if float(sys.argv[2]) else []
saved = folder / "saved"
found = fits.saved(folder, 2, callbacks, steps_per_dispatch=1, resume_from=saved)
os.write(1, json.dumps(found).encode())
os._exit(0)
"""


@pytest.mark.exhaustive
def test_a_run_that_is_killed_again_and_again_goes_on_as_if_nothing_had_been(tmp_path) -> None:
    def run(folder: Path, seconds: float) -> list[Ran]:
        return run_on_processes(BEGIN + KILLED, timeout=100, arguments=[str(folder), str(seconds)])

    random = np.random.default_rng(0)
    killed = 0
    for _ in range(10):
        ran = run(tmp_path / "killed", random.uniform(0.1, 3.0))
        killed += all(one.returncode != 0 for one in ran)
    assert killed > 3
    expected = [json.loads(one.stdout.splitlines()[-1]) for one in run(tmp_path / "whole", 0)]
    found = [json.loads(one.stdout.splitlines()[-1]) for one in run(tmp_path / "killed", 0)]
    assert found == expected
    assert (tmp_path / "killed/log.csv").read_bytes() == (tmp_path / "whole/log.csv").read_bytes()


ELSEWHERE = """
fits.saved(folder, "epoch", [fits.signalled(15, [1], 8)])
"""


@pytest.mark.slow
def test_a_run_of_two_processes_goes_on_in_one(tmp_path) -> None:
    for devices in (1, 8):
        folder = tmp_path / str(devices)
        told_by(ELSEWHERE, folder, devices=4)
        script = """
        on = jl.data_parallel() if jax.device_count() > 1 else "cpu:0"
        fits.places = lambda: {"data": on}
        import warnings
        warnings.simplefilter("ignore")
        found = fits.saved(folder, "epoch", resume_from=folder / "saved")
        print(json.dumps(found))
        """
        (ran,) = run_on_processes(BEGIN + textwrap.dedent(script), 1, devices, arguments=[str(folder)])
        check_all_ended_well([ran])
        found = json.loads(ran.stdout.splitlines()[-1])
        expected = fits.fitted("cpu:0", epochs=3)
        assert found["stopped"] == "completed"
        for name in ("loss", "validation_loss", "accuracy"):
            fits.check_close(found[name], expected[name], name)


LEFT = """
@jl.on_host(Event.BATCH_END, every_process=True)
def fails(loop, event):
    if me == int(sys.argv[2]) and loop.step == 4:
        if sys.argv[3] == "killed":
            os.kill(os.getpid(), 9)
        raise OSError("what went wrong here")

class Loader:
    def __len__(self):
        return 6

    def __iter__(self):
        for index, batch in enumerate(jl.in_batches(small.samples(24), 4)):
            if me == int(sys.argv[2]) and index == 3:
                if sys.argv[3] == "ends":
                    return
                raise OSError("what went wrong here")
            yield batch

import time
print(time.time(), flush=True)
if sys.argv[3] in ("killed", "callback"):
    fits.fitted(jl.data_parallel(), [fails])
else:
    fits.fitted(jl.data_parallel(), training=jl.repeat(Loader()), validation=None)
"""


def left(tmp_path: Path, process: int, how: str) -> list[Ran]:
    """How processes end of which one fails; none may need the time limit."""
    ran = run_on_processes(BEGIN + LEFT, devices=1, timeout=60, arguments=[str(tmp_path), str(process), how])
    assert all(one.returncode != 0 for one in ran)
    assert not any(one.returncode == -9 for one in ran if how != "killed"), "it was killed at the time limit"
    return ran


@pytest.mark.slow
def test_a_process_whose_callback_raises_ends_and_the_others_do_too(tmp_path) -> None:
    first, second = left(tmp_path, 1, "callback")
    assert "OSError: what went wrong here" in second.stderr
    assert "jaxloop: in callback 'fails' at BATCH_END, training batch " in second.stderr
    assert "look at what each of them has written" in first.stderr


@pytest.mark.exhaustive
@pytest.mark.parametrize("process", [0, 1])
@pytest.mark.parametrize("how", ["callback", "loader", "ends"])
def test_a_process_that_fails_says_why_and_no_other_waits_for_ever(tmp_path, process, how) -> None:
    ran = left(tmp_path, process, how)
    why = "the batches ended before batch 3" if how == "ends" else "OSError: what went wrong here"
    assert why in ran[process].stderr
    assert "look at what each of them has written" in ran[process].stderr


@pytest.mark.slow
@pytest.mark.parametrize("process", [0, 1])
def test_processes_whose_peer_was_killed_end(tmp_path, process) -> None:
    ran = left(tmp_path, process, "killed")
    assert ran[process].returncode == -9
    assert ran[1 - process].returncode not in (0, -9)
