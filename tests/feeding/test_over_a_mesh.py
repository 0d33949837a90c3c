"""Data of every kind over eight devices: what one device gives, also where no batch divides over them."""

import pytest

from tests.devices import run_on_devices

BEGIN = """
import jax, jax.numpy as jnp, numpy as np, optax
import jaxloop as jl
from jaxloop.placement import Placement
from tests import small
from tests.feeding import mesh_cases as cases
"""


def on_eight_devices(script: str) -> None:
    run_on_devices(BEGIN + script, 8, timeout=400)


@pytest.mark.slow
def test_training_equals_one_device() -> None:
    on_eight_devices('cases.check_training("line", ["epochs", "resident and compiled", "on the third"], [3])')


def test_evaluation_equals_one_device_though_no_batch_divides() -> None:
    on_eight_devices('cases.check_evaluation("line", ["own", "half on a device"], [2])')


@pytest.mark.exhaustive
@pytest.mark.parametrize("mesh", ["line", "grid"])
@pytest.mark.parametrize("what", ["training", "evaluation"])
def test_data_of_every_kind_equal_one_device(mesh: str, what: str) -> None:
    on_eight_devices(f'cases.check_{what}("{mesh}")')


AHEAD = """
Placement.is_cpu = property(lambda self: not self.single)
expected = {kind: cases.losses(cases.EPOCHS[kind](), "cpu:0", 3) for kind in KINDS}
Placement.is_cpu = property(lambda self: False)
for kind in KINDS:
    for name, on in cases.meshes().items():
        np.testing.assert_allclose(cases.losses(cases.EPOCHS[kind](), on, 3), expected[kind], rtol=0, atol=1e-5)
loop, model = small.training_loop(validation=None), small.model()
found = loop.predict(model, cases.BATCHES["half on a device"](), on=on)
np.testing.assert_allclose(found, loop.predict(model, cases.BATCHES["own"](), on="cpu:0"), rtol=1e-6, atol=1e-6)
"""


@pytest.mark.slow
def test_a_thread_sends_batches_ahead_to_several_accelerators() -> None:
    on_eight_devices('KINDS = ["epochs", "half on a device"]' + AHEAD)


UNEVEN = """
def refused(make, message):
    try:
        make()
    except ValueError as error:
        assert message in str(error), error
    else:
        raise AssertionError("it is not refused")

on = jl.data_parallel()
compiled = []
jax.monitoring.register_event_duration_secs_listener(
    lambda name, *_, **__: compiled.append(name) if name.endswith("backend_compile_duration") else None
)
for kind in (lambda samples: jl.TrainingEpochs(samples, 12), lambda samples: [list(jl.in_batches(samples, 12))]):
    loop = small.training_loop(training=kind(small.samples(24)), validation=None)
    model = small.model()
    compiled.clear()
    refused(
        lambda: loop.fit(model, epochs=1, on=on),
        "training: a batch of 12 examples does not divide over 8 devices: 12 = 8 x 1 + 4; "
        "give a batch size of 8 or 16.",
    )
    assert not compiled
loop = small.training_loop(training=jl.TrainingEpochs(small.samples(24), 3), validation=None)
grid = cases.meshes()["grid"]
refused(
    lambda: loop.fit(small.model(), epochs=1, on=grid),
    "a batch of 3 examples does not divide over the 4 parts of the mesh: 3 = 4 x 0 + 3; give a batch size of 4.",
)
"""


def test_a_training_batch_that_does_not_divide_is_refused_before_anything_is_compiled() -> None:
    on_eight_devices(UNEVEN)


MIXED = """
# Nodes, edges and targets have axes of their own: what divides is divided, the rest lies whole on each device.
def graphs(seed):
    random = np.random.default_rng(seed)
    nodes, edges = random.normal(size=(24, 4)).astype(np.float32), random.integers(0, 24, (10, 2)).astype(np.int32)
    return {"nodes": nodes, "edges": edges}, random.normal(size=(3, 4)).astype(np.float32)

def apply(params, state, input, *, training, key):
    gathered = input["nodes"][input["edges"][:, 0]] @ params["w"]
    pooled = jnp.zeros_like(input["nodes"]).at[input["edges"][:, 1]].add(gathered)
    return pooled.reshape(3, 8, 4).mean(1), state

model = lambda: jl.Model(apply, {"w": np.eye(4, dtype=np.float32)}, {})
batches = [graphs(seed) for seed in range(4)]

def mean(output, target):
    return ((output - target) ** 2).mean()

for loss in (jl.losses.mean_squared_error, mean):
    loop = jl.TrainingLoop(
        [batches] * 2, optimizer=optax.sgd(0.1), loss_fn=loss, validation=batches, progress=False, steps_per_dispatch=2
    )
    one, many = (loop.fit(model(), epochs=2, on=on)[1] for on in ("cpu:0", jl.data_parallel()))
    np.testing.assert_allclose(many.batches["loss"], one.batches["loss"], rtol=1e-5)
    np.testing.assert_allclose(many.epochs["validation_loss"], one.epochs["validation_loss"], rtol=1e-6)
"""


@pytest.mark.slow
def test_arrays_without_a_common_axis_are_divided_where_they_can_be() -> None:
    on_eight_devices(MIXED)


ONE_NUMBER = """
def mean(output, target):
    return ((output - jax.nn.one_hot(target, 3)) ** 2).mean()

loop = small.training_loop(validation=None, loss_fn=mean, metrics=[], steps_per_dispatch=2)
for batches in (jl.in_batches(cases.TEST, 10), jl.in_batches(cases.TEST, 16), list(jl.in_batches(cases.TEST, 10))):
    one, many = (loop.evaluate(small.model(), batches, on=on)["loss"] for on in ("cpu:0", jl.data_parallel()))
    np.testing.assert_allclose(many, one, rtol=1e-6)
"""


def test_a_loss_of_one_number_that_cannot_be_masked_is_right_though_nothing_divides() -> None:
    on_eight_devices(ONE_NUMBER)


SIZES = """
from dataclasses import replace
from jaxloop.feeding.feed import Feed
from jaxloop.feeding.reading import Reader
from jaxloop.feeding.source import Peekable

feed = Feed(Peekable(jl.in_batches(cases.TEST, 10)), Reader("validation"), jl.data_parallel()).begun(short="filled")
assert feed.expected(1).batch.batch_size == 16
assert feed.agreed.batch_size == 10
assert replace(feed.agreed, examples=16).batch_size == 10  # as a loss with a number for each example has it
assert replace(feed.agreed, examples=32).batch_size == 20  # or for each of two tokens
assert replace(feed.agreed, examples=16, short="alone").batch_size == 10
assert [np.sum(np.asarray(weight)) for _, (_, _, weight) in feed.chunks(1)] == [10, 10, 10, 10, 10, 3]
"""


def test_the_batch_size_that_is_told_is_the_users() -> None:
    on_eight_devices(SIZES)


RAGGED = """
random = np.random.default_rng(0)
samples = [(np.ones(length, np.int32), np.int32(length % 3)) for length in random.integers(1, 9, 64)]

def apply(params, state, input, *, training, key):
    return (params["table"][input] * (input > 0)[..., None]).sum(1), state

model = lambda: jl.Model(apply, {"table": np.full((2, 3), 0.1, np.float32)}, {})
epochs = jl.TrainingEpochs(samples, 16, collate=cases.padded)
validation = jl.in_batches(samples[:41], 10, collate=cases.padded, size=lambda sample: len(sample[0]), lengths=(4, 8))
nonuniform = jl.NonuniformTrainingEpochs(
    samples, 8, collate=cases.padded, size=lambda sample: len(sample[0]), lengths=(4, 8)
)
for steps in (1, 2):
    loop = jl.TrainingLoop(
        nonuniform, optimizer=optax.sgd(0.1), loss_fn=jl.losses.softmax_cross_entropy, validation=validation,
        progress=False, steps_per_dispatch=steps,
    )
    one, many = (loop.fit(model(), epochs=2, on=on)[1] for on in ("cpu:0", jl.data_parallel()))
    np.testing.assert_allclose(many.batches["loss"], one.batches["loss"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(many.epochs["validation_loss"], one.epochs["validation_loss"], rtol=1e-6)
"""


@pytest.mark.slow
def test_batches_of_several_lengths_equal_one_device() -> None:
    on_eight_devices(RAGGED)


NAMED = """
def broken(batch):
    if batch[1][0] == 5:
        raise RuntimeError("this one cannot be read")
    return batch

batches = [(np.zeros((8, 4), np.float32), np.full(8, index % 3 if index != 5 else 5, np.int32)) for index in range(8)]
for accelerator in (False, True):
    Placement.is_cpu = property(lambda self: not accelerator)
    loop = small.training_loop(
        training=jl.repeat(cases.Loader(batches, broken)), validation=None, steps_per_dispatch=4
    )
    try:
        loop.fit(small.model(), epochs=1, on=jl.data_parallel())
    except RuntimeError as error:
        assert any("while it read training, batch 6 of 8" in note for note in error.__notes__), error.__notes__
    else:
        raise AssertionError("it was read")
"""


@pytest.mark.slow
def test_an_error_in_a_batch_that_shares_a_dispatch_names_its_batch() -> None:
    on_eight_devices(NAMED)


ELSEWHERE = """
elsewhere = lambda batch: jax.device_put(batch, jax.devices()[6])
some = jl.data_parallel(jax.devices()[:4])
for steps in (1, 3):
    found = cases.losses(cases.in_16(elsewhere), some, steps)
    np.testing.assert_allclose(found, cases.losses(cases.EPOCHS["loader"](), "cpu:0", steps), rtol=0, atol=1e-5)
"""


@pytest.mark.slow
def test_arrays_on_a_device_that_is_not_in_the_mesh_are_moved() -> None:
    on_eight_devices(ELSEWHERE)


WARNED = """
import warnings

batches = [*jl.in_batches(small.samples(32), 16), *jl.in_batches(small.samples(5, seed=2), 5)]
found = []
for on in ("cpu:0", jl.data_parallel()):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found.append(cases.losses([batches] * 2, on, 1, on_recompile="warn"))
    assert any("A program is compiled for it" in str(one.message) for one in told)
np.testing.assert_allclose(*found, rtol=0, atol=1e-5)
"""


@pytest.mark.slow
def test_a_training_batch_of_another_size_that_is_only_warned_of_lies_whole_on_each_device() -> None:
    on_eight_devices(WARNED)
