"""What pickle takes of a run, and what is said of what it does not take."""

import copy
import pickle
from pathlib import Path
from typing import Any

import equinox
import jax
import numpy as np
import pytest
from flax import linen, nnx

import jaxloop as jl
from tests import small

RATE = jl.make_schedule([jl.ScheduleSegment(jl.shapes.linear, end_rate=0.0)])
CALLBACKS = {
    "clip": lambda folder: jl.callbacks.clip_by_global_norm(0.1),
    "ema": lambda folder: jl.callbacks.ema(0.9, evaluate=True),
    "early stopping": lambda folder: jl.callbacks.early_stopping(patience=2, restore_best=True),
    "plateau": lambda folder: jl.callbacks.reduce_on_plateau(patience=2, factor=0.5),
    "non-finite": lambda folder: jl.callbacks.stop_on_non_finite(),
    "rate": lambda folder: jl.callbacks.learning_rate_scheduler(RATE),
    "hyperparameter": lambda folder: jl.callbacks.hyperparameter_scheduler("learning_rate", RATE),
    "csv": lambda folder: jl.callbacks.CSVLogger(folder / "log.csv"),
    "tensorboard": lambda folder: jl.callbacks.TensorBoardLogger(folder / "board"),
    "checkpoint": lambda folder: jl.callbacks.Checkpoint(folder / "checkpoints"),
    "bar": lambda folder: jl.callbacks.ProgressBar(),
}


@pytest.mark.parametrize("make", CALLBACKS.values(), ids=CALLBACKS)
def test_every_ready_made_callback_can_be_pickled(make: Any, tmp_path: Path) -> None:
    callback = make(tmp_path)
    assert type(pickle.loads(pickle.dumps(callback))) is type(callback)


def test_a_pickled_callback_does_the_same() -> None:
    callback = jl.callbacks.clip_by_global_norm(0.1)
    again = pickle.loads(pickle.dumps(callback))
    models = [small.training_loop(callbacks=[one]).fit(small.model(), 1)[0].model for one in (callback, again)]
    small.assert_trees_equal(*models)


def test_a_loop_and_a_history_can_be_pickled() -> None:
    loop, history = small.training_loop().fit(small.model(), 1)
    again, same = pickle.loads(pickle.dumps((loop, history)))
    small.assert_trees_equal(again, loop)
    np.testing.assert_array_equal(same.epochs["loss"], history.epochs["loss"])


def test_a_model_of_nnx_can_be_pickled() -> None:
    model = jl.Model.from_nnx(nnx.Linear(4, 3, rngs=nnx.Rngs(0)))
    again = pickle.loads(pickle.dumps(model))
    images = small.samples(2)[0]
    np.testing.assert_array_equal(again(images), model(images))


def test_a_training_loop_says_what_to_use() -> None:
    with pytest.raises(TypeError, match=r"TrainingLoop: it cannot be pickled, since it holds functions: .*init_fn"):
        pickle.dumps(small.training_loop())
    with pytest.raises(
        TypeError, match=r"by the same code\..*callbacks\.Checkpoint and jaxloop\.restore.*save_weights"
    ):
        pickle.dumps(small.training_loop())


def linen_model() -> jl.Model:
    module = linen.Dense(3)
    return jl.Model.from_linen(module, module.init(jax.random.key(0), np.zeros((1, 4))))


def equinox_model() -> jl.Model:
    return jl.Model.from_callable(equinox.nn.MLP(4, 3, 8, 1, key=jax.random.key(0)), batched=False)


@pytest.mark.parametrize("make", [linen_model, equinox_model])
def test_a_model_that_holds_functions_says_what_to_use_and_can_be_copied(make: Any) -> None:
    model = make()
    with pytest.raises(
        TypeError, match=r"Model: .* cannot be pickled, since it holds functions.*jaxloop\.save_weights"
    ):
        pickle.dumps({"model": model})
    for copied in (copy.copy, copy.deepcopy):
        again = copied(model)
        assert type(again) is jl.Model
        small.assert_trees_equal(again.params, model.params)
    assert copy.copy(model) == model
    one, other = copy.deepcopy([model, model])
    assert one is other


def test_training_loops_can_be_copied() -> None:
    training_loop = small.training_loop()
    for copied in (copy.copy, copy.deepcopy):
        again = copied(training_loop)
        small.assert_trees_equal(again.fit(small.model(), 1)[0], training_loop.fit(small.model(), 1)[0])


def test_libraries_that_take_functions_are_not_held_up() -> None:
    cloudpickle = pytest.importorskip("cloudpickle")
    loop, _ = small.training_loop().fit(small.model(), 1)
    again, model = pickle.loads(cloudpickle.dumps((small.training_loop(), equinox_model())))
    small.assert_trees_equal(again.fit(small.model(), 1)[0], loop)
    small.assert_trees_equal(model.params, equinox_model().params)
