"""`on=None` is JAX's own default device, in each way to run; eight devices of a process of its own."""

import jax
import pytest

from jaxloop.placement import default_device, resolve
from tests.devices import run_on_devices

SCRIPT = """
import jax
import jaxloop as jl
from tests import small

DEVICES = jax.devices()

def places(tree):
    return {device for leaf in jax.tree.leaves(tree) for device in leaf.devices()}

def every_way(expected):
    seen = []

    @jl.on_host(jl.Event.UPDATE_START, reads="loop")
    def look(loop, event):
        seen.append(places(loop))

    model = jl.Model(small.apply, *jax.tree.map(jax.numpy.asarray, (small.model().params, small.model().state)))
    training_loop = small.training_loop(callbacks=[small.traced(), look], steps_per_dispatch=2)
    loop, _ = training_loop.fit(model, 1)
    fused = small.training_loop(callbacks=[small.traced()], steps_per_dispatch=2)
    assert places(fused.fit(model, 1)[0]) == {expected}
    assert places(loop) == {expected} and seen == [{expected}] * 3, (places(loop), seen)
    assert training_loop.evaluate(model, training_loop.validation)["loss"] > 0
    assert training_loop.predict(model, training_loop.validation).shape == (8, 3)
    assert training_loop.compile(model).training.flops > 0
    loop = fused.begin_epoch(fused.start(model, epochs=1))
    loop = fused.end_epoch(fused.eval_step(fused.train_step(loop, fused.training[0][0]), fused.training[0][0]))
    assert places(loop) == {expected}, places(loop)
    longer = small.training_loop(training=jl.TrainingEpochs(small.samples(48), 4))
    try:
        jl.find_learning_rate(longer, model, steps=10)
    except ValueError as error:
        assert "never fell" in str(error)
    jl.benchmark(fused, model, rounds=1, warmup=1)

with jax.default_device(DEVICES[1]):
    every_way(DEVICES[1])
jax.config.update("jax_default_device", DEVICES[2])
every_way(DEVICES[2])
with jax.default_device(DEVICES[1]):
    assert places(small.training_loop(validation=None).fit(small.model(), 1, on="cpu:3")[0]) == {DEVICES[3]}
"""


@pytest.mark.slow
def test_each_way_to_run_takes_the_default_device_that_jax_was_given() -> None:
    run_on_devices(SCRIPT, 4, timeout=300)


@pytest.mark.parametrize("chosen", [jax.devices()[-1], "cpu", None], ids=str)
def test_none_is_the_device_or_the_platform_that_jax_was_given(chosen) -> None:
    with jax.default_device(chosen):
        assert resolve(None).device == default_device() == (jax.devices()[0] if chosen in (None, "cpu") else chosen)
