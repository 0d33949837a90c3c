"""Feeding in two processes of four devices: each gives what its own devices have, and together it is every batch."""

import json

import numpy as np
import pytest

from tests.processes import check_all_ended_well, run_on_processes

BEGIN = """
import json
import numpy as np
import jaxloop as jl
from jaxloop.placement import Placement
from tests import small
from tests.feeding import mesh_cases, process_cases as cases
"""


def on_two_processes(script: str, timeout: float = 200) -> list[str]:
    """What each process has written."""
    ran = run_on_processes(BEGIN + script, timeout=timeout)
    check_all_ended_well(ran)
    return [one.stdout for one in ran]


CHECKS = """
for name in NAMES:
    for steps in STEPS:
        cases.check_own(name, steps)
        cases.check_loaders(name, steps)
        cases.check_spanning(name, steps)
"""


def test_processes_have_every_batch_together_and_refuse_what_they_cannot() -> None:
    on_two_processes('NAMES, STEPS = ["mixed"], [3]' + CHECKS + "cases.check_refusals()")


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", ["line", "mixed", "grid", "across", "columns", "all", "none"])
def test_processes_have_every_batch_together_on_every_mesh(name: str) -> None:
    on_two_processes(f"NAMES, STEPS = [{name!r}], [1, 2, 3, 4]" + CHECKS)


@pytest.mark.exhaustive
def test_a_thread_reads_ahead_in_each_process() -> None:
    ahead = "Placement.is_cpu = property(lambda self: False)\n"
    on_two_processes(ahead + 'NAMES, STEPS = ["line", "across"], [1, 3]' + CHECKS)


AGREEMENTS = """
found = {}
for name, (on, shares) in cases.placements().items():
    own = cases.feed(jl.in_batches(cases.pairs(64), 16), on).agreement()
    other = cases.feed(jl.in_batches(cases.pairs(64, jax.process_index()), 16), on).agreement()
    first = cases.OTHER * jax.process_index()
    loader = cases.feed(list(jl.in_batches(cases.pairs(4 * 16 // shares, first), 16 // shares)), on).agreement()
    mapped = jl.in_batches(cases.pairs(64), 16).map(lambda batch: (batch[0], batch[1] + jax.process_index()))
    found[name] = own, other, loader, cases.feed(mapped, on).agreement()
print(json.dumps(found))
"""


def test_processes_tell_what_must_be_equal() -> None:
    one, two = (json.loads(text.splitlines()[-1]) for text in on_two_processes(AGREEMENTS))
    for name in one:
        (own, other, loader, mapped), (own_too, other_too, loader_too, mapped_too) = one[name], two[name]
        assert own == own_too
        assert {key for key in other if other[key] != other_too[key]} == {"training: samples and their order"}
        assert loader["training: a batch"] == "input float32[16, 4], target int64[16]; of 16 examples"
        differ = {key for key in loader if key in loader_too and loader[key] != loader_too[key]}
        shared = {
            "across": {"training: parts 0, 1, 2, 3 of the first batch"},
            "none": {"training: part 0 of the first batch"},
        }
        assert differ == shared.get(name, set()), "who has the same rows must read the same"
        assert {key for key in mapped if key in mapped_too and mapped[key] != mapped_too[key]} == differ


FITS = """
on = jl.data_parallel() if jax.process_count() > 1 else "cpu:0"

def local(samples, size):
    batches = list(jl.in_batches(samples, size))
    if jax.process_count() == 1:
        return mesh_cases.Loader(batches)
    mine = slice(jax.process_index() * size // 2, (jax.process_index() + 1) * size // 2)
    return mesh_cases.Loader(batches, lambda batch: jax.tree.map(lambda leaf: leaf[mine], batch))

found = {}
epochs = {kind: mesh_cases.EPOCHS[kind] for kind in ("epochs", "resident", "compiled", "one by one")}
epochs["loader"] = lambda: jl.repeat(local(mesh_cases.TRAINING, 16))
for kind, make in epochs.items():
    loop = small.training_loop(training=make(), validation=mesh_cases.BATCHES["own"](), steps_per_dispatch=3)
    history = loop.fit(small.model(), epochs=2, on=on)[1]
    found[kind] = [*history.batches["loss"].tolist(), *history.epochs["validation_loss"].tolist()]
loop = small.training_loop(validation=None)
for kind, make in {"own": mesh_cases.BATCHES["own"], "loader": lambda: local(small.samples(50, seed=1), 10)}.items():
    found["evaluated " + kind] = sorted(loop.evaluate(small.model(), make(), on=on).values())
    found["predicted " + kind] = loop.predict(small.model(), make(), on=on).tolist()

import flax.linen as nn

class Net(nn.Module):
    # It has no parameters until it has seen a batch: they must be the same in each process.
    @nn.compact
    def __call__(self, input, training=False):
        return nn.Dense(3)(nn.BatchNorm(use_running_average=not training)(nn.Dense(8)(input)))

validation = local(small.samples(50, seed=1), 10)
loop = small.training_loop(training=epochs["loader"](), validation=validation, steps_per_dispatch=2)
history = loop.fit(Net(), epochs=2, on=on)[1]
found["linen"] = [*history.batches["loss"].tolist(), *history.epochs["validation_loss"].tolist()]

def mean(output, target):
    return ((output - jax.nn.one_hot(target, 3)) ** 2).mean()

loop = small.training_loop(validation=None, loss_fn=mean, metrics=[])
found["one number"] = loop.evaluate(small.model(), mesh_cases.BATCHES["own"](), on=on)["loss"]
found["one number of a loader"] = loop.evaluate(small.model(), local(small.samples(48), 16), on=on)["loss"]
print(json.dumps(found))
"""


@pytest.mark.exhaustive
def test_fits_evaluations_and_predictions_of_two_processes_equal_one_device() -> None:
    (alone,) = run_on_processes(BEGIN + FITS, count=1, devices=1)
    check_all_ended_well([alone])
    expected = json.loads(alone.stdout.splitlines()[-1])
    found = [json.loads(text.splitlines()[-1]) for text in on_two_processes(FITS)]
    shares = [one.pop("predicted loader") for one in found]
    whole = np.array(expected.pop("predicted loader"))
    assert [len(share) for share in shares] == [25, 25]
    for index, share in enumerate(shares):  # each process is given the predictions of what it has read
        rows = np.arange(50).reshape(5, 2, 5)[:, index].ravel()
        np.testing.assert_allclose(share, whole[rows], rtol=1e-6, atol=1e-6)
    for one in found:
        assert one.keys() == expected.keys()
        for kind, values in expected.items():
            np.testing.assert_allclose(one[kind], values, rtol=0, atol=1e-5, err_msg=kind)
