"""What a training loop keeps, and what it lets go."""

import copy
import gc
import weakref
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxloop as jl
from jaxloop import Event
from tests import small
from tests.compiling import counted_compiles


def heavy(at: Event = Event.UPDATE_START) -> tuple[Any, weakref.ref]:
    """A compiled callback that holds an array, and that array weakly."""
    array = np.ones(1000, np.float32)

    def callback(loop, event):
        return loop.record("mine", jnp.asarray(array)[loop.step]) if event in (at, Event.EPOCH_END) else loop

    return callback, weakref.ref(array)


def on_host() -> tuple[Any, weakref.ref]:
    array = np.ones(1000, np.float32)

    @jl.on_host(Event.UPDATE_START, reads="step")
    def callback(loop, event):
        array.sum()

    return callback, weakref.ref(array)


@pytest.mark.slow
@pytest.mark.parametrize("steps_per_dispatch", [1, 3])
def test_callbacks_of_one_fit_are_let_go_once_a_fit_with_others_has_begun(steps_per_dispatch: int) -> None:
    training_loop = small.training_loop(steps_per_dispatch=steps_per_dispatch, validation=None)
    arrays = []
    for make in (heavy, on_host, heavy):
        callback, array = make()
        arrays.append(array)
        training_loop.fit(small.model(), 1, callbacks=[callback])
    del callback
    training_loop.fit(small.model(), 1)
    gc.collect()
    assert [array() is None for array in arrays] == [True] * 3


def test_the_next_fit_with_the_same_callbacks_compiles_nothing_nor_does_one_without() -> None:
    training_loop = small.training_loop(callbacks=[jl.callbacks.clip_by_global_norm(1.0)])
    loop, _ = training_loop.fit(small.model(), 1)
    metrics = training_loop.evaluate(loop, training_loop.validation)
    callback, _ = heavy()
    training_loop.fit(small.model(), 1, callbacks=[callback])
    with counted_compiles() as counts:
        training_loop.fit(small.model(), 2, callbacks=[callback])
        assert training_loop.evaluate(loop, training_loop.validation) == metrics
        training_loop.compile(loop)
        training_loop.fit(loop, 1, callbacks=[callback])
        training_loop.fit(loop, 1)
    assert counts == {}


def test_a_fit_within_a_fit_leaves_the_outer_one_whole() -> None:
    inner, array = heavy()
    inner_fits = [inner]
    del inner

    @jl.on_host(Event.EPOCH_END, reads="loop")
    def fits(loop, event):
        training_loop.fit(small.model(), 1, callbacks=inner_fits)

    training_loop = small.training_loop(validation=None)
    outer, _ = heavy(Event.BATCH_END)
    loop, _ = training_loop.fit(small.model(), 3, callbacks=[outer, fits])
    assert int(loop.step) == 9
    del inner_fits[:], fits
    training_loop.fit(small.model(), 1)
    gc.collect()
    assert array() is None


def test_resident_samples_are_let_go_with_their_data() -> None:
    training_loop = small.training_loop()

    def evaluated() -> weakref.ref:
        batches = jl.TrainingEpochs(small.samples(12), 4, resident=True)[0]
        training_loop.evaluate(small.model(), batches)
        training_loop.predict(small.model(), batches)
        assert len(training_loop.setup.residents) == 1
        return weakref.ref(batches.samples[0])

    arrays = [evaluated() for _ in range(2)]
    gc.collect()
    assert [array() for array in arrays] == [None, None]
    assert len(training_loop.setup.residents) == 0


WAYS = {
    "one step": {},
    "auto": {"steps_per_dispatch": "auto"},
    "three steps": {"steps_per_dispatch": 3, "callbacks": [small.traced()]},
    "stages apart": {"callbacks": [on_host()[0], jl.callbacks.ema(0.9)]},
}


@pytest.mark.slow
@pytest.mark.parametrize("changes", WAYS.values(), ids=WAYS)
def test_no_tracer_outlives_its_trace_and_a_training_loop_that_was_used_can_be_copied(changes: dict[str, Any]) -> None:
    training_loop = small.training_loop(**changes)
    batch = training_loop.training[0][0]
    with jax.checking_leaks():
        loop, _ = training_loop.fit(small.model(), 1)
        metrics = training_loop.evaluate(loop, training_loop.validation)
        training_loop.predict(loop, training_loop.validation)
        stepped = training_loop.begin_epoch(training_loop.start(small.model(), epochs=1))
        stepped = training_loop.eval_step(training_loop.train_step(stepped, batch), batch)
        training_loop.end_epoch(stepped)
    again = copy.deepcopy(training_loop)
    assert again.evaluate(again.fit(small.model(), 1)[0], again.validation) == metrics


def blocks(remat: bool) -> Any:
    """A transformer's blocks as one scan over their stacked parameters: attention, then two dense layers."""

    def block(input: jax.Array, params: Any) -> tuple[jax.Array, None]:
        query, key, value = (input @ params[name] for name in ("query", "key", "value"))
        scores = jax.nn.softmax(query @ key.swapaxes(1, 2) / query.shape[-1] ** 0.5)
        input = input + scores @ value
        return input + jax.nn.gelu(input @ params["expand"]) @ params["contract"], None

    def apply(params: Any, state: Any, input: Any, *, training: bool, key: Any) -> tuple[Any, Any]:
        return jax.lax.scan(jax.checkpoint(block) if remat else block, input, params)[0], state

    return apply


def test_blocks_that_are_scanned_and_run_again_need_a_fraction_of_the_memory() -> None:
    depth, width, length, batch_size = 12, 64, 64, 32
    random = np.random.default_rng(0)
    shapes = dict.fromkeys(("query", "key", "value"), (width, width))
    shapes |= {"expand": (width, 4 * width), "contract": (4 * width, width)}
    params = {name: 0.05 * random.normal(size=(depth, *shape)).astype(np.float32) for name, shape in shapes.items()}
    data = random.normal(size=(batch_size, length, width)).astype(np.float32)
    training_loop = small.training_loop(
        training=[[(data, data)]], validation=None, loss_fn=jl.losses.mean_squared_error, metrics=[]
    )
    temporaries, losses = [], []
    for remat in (False, True):
        model = jl.Model(blocks(remat), params)
        temporaries.append(training_loop.compile(model).training.memory["temporaries"])
        losses.append(training_loop.fit(model, 1)[0].stats["loss"])
    assert temporaries[0] > 3 * temporaries[1], f"{temporaries[0] / 1e6:.0f} MB to {temporaries[1] / 1e6:.0f} MB"
    np.testing.assert_allclose(*losses, rtol=1e-6)
