"""Which data are looked into before they are trained on, and how it is told."""

import functools
import gc
import time
import weakref
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxloop as jl
from jaxloop.feeding.inspection import Inspection, Passed
from jaxloop.losses import mean_squared_error, softmax_cross_entropy
from tests import small


def spoilt(value: Any, place: int = 9, count: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Samples of three classes, one of them wild, a label or an input that is NaN: in the third batch."""
    inputs, labels = small.samples(count)
    labels = labels.astype(np.int64)
    if value is np.nan:
        inputs[place, 2] = value
    else:
        labels[place] = value
    return inputs, labels


def listed(samples: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    return [tuple(part[start : start + 4] for part in samples) for start in range(0, len(samples[0]), 4)]


class Loader:
    """Batches that can be read alone, one after the other."""

    def __init__(self, samples: Any):
        self.batches = listed(samples)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Any:
        return iter(self.batches)


WILD = {
    -1: r"target is -1 at \(9,\); with an output of 3 classes labels go from 0 to 2",
    3: r"target is 3 at \(9,\)",
    2**40: r"target holds 1099511627776, which does not fit int32",
    np.nan: r"input is NaN at \(9, 2\)",
}


@pytest.mark.parametrize(("value", "message"), WILD.items(), ids=map(str, WILD))
@pytest.mark.parametrize(
    "data",
    [
        lambda samples: {"training": jl.TrainingEpochs(samples, 4)},
        lambda samples: {"training": jl.TrainingEpochs(samples, 4, resident=True)},
        lambda samples: {"validation": jl.in_batches(samples, 4)},
    ],
    ids=["training", "resident", "validation"],
)
def test_samples_in_memory_are_looked_into_before_anything_is_compiled(data: Any, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=rf"(training|validation): the samples' {message}"):
        small.training_loop(**data(spoilt(value))).fit(small.model(), epochs=1)


@pytest.mark.parametrize(("value", "message"), WILD.items(), ids=map(str, WILD))
@pytest.mark.parametrize(
    "data",
    [
        lambda batches: {"training": [batches]},
        lambda batches: {"training": [batches[:1], batches]},
        lambda batches: {"training": jl.repeat(batches)},
        lambda batches: {"validation": batches},
    ],
    ids=["training", "later epoch", "repeat", "validation"],
)
def test_lists_of_batches_are_looked_into_before_anything_is_compiled(data: Any, value: Any, message: str) -> None:
    message = message.replace(r"\(9", r"\(1")
    with pytest.raises(ValueError, match=rf"(training|validation): batch 2's {message}"):
        small.training_loop(**data(listed(spoilt(value)))).fit(small.model(), epochs=1)


def test_what_is_evaluated_and_what_one_owns_is_looked_into_too() -> None:
    training_loop = small.training_loop()
    with pytest.raises(ValueError, match="batches: the samples' target is 3 at"):
        training_loop.evaluate(small.model(), jl.in_batches(spoilt(3), 4))
    with pytest.raises(ValueError, match="training: the samples' target is 3 at"):
        small.training_loop(training=jl.TrainingEpochs(spoilt(3), 4)).start(small.model(), epochs=1)


def test_samples_that_weigh_nothing_may_be_anything() -> None:
    inputs, labels = spoilt(-100)
    inputs[9] = np.nan
    samples = (inputs, labels, (np.arange(12) != 9).astype(np.float32))
    training_loop = small.training_loop(
        training=jl.TrainingEpochs(samples, 4), validation=jl.in_batches(samples, 4), check="all"
    )
    loop, history = training_loop.fit(small.model(), epochs=1)
    assert np.isfinite([history.epochs["loss"][0], history.epochs["validation_loss"][0]]).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(loop.model.params))


def test_labels_of_tokens_that_weigh_nothing_may_be_anything() -> None:
    weight = np.ones((2, 3), np.float32)
    weight[1, 2] = 0
    target = np.zeros((2, 3), np.int64)
    target[1, 2] = 2**40
    inspection = Inspection("memory", softmax_cross_entropy, (), None, Passed())
    batch = (np.zeros((2, 3)), target, weight)
    inspection.numbers([batch], lambda: batch, "training")
    inspection.targets([batch], lambda: batch, np.zeros((2, 3, 4)), "training")
    target[0, 1] = 4
    with pytest.raises(ValueError, match=r"training: batch 0's target is 4 at \(0, 1\)"):
        inspection.targets([(*batch[:1], target.copy(), weight)], lambda: batch, np.zeros((2, 3, 4)), "training")


MAPPED = functools.partial(jl.TrainingEpochs, batch_size=4)


@pytest.mark.parametrize("steps_per_dispatch", [1, 2])
@pytest.mark.parametrize(
    "data",
    [
        lambda samples: {"training": [Loader(samples)]},
        lambda samples: {"training": MAPPED(samples).map(lambda batch: batch)},
        lambda samples: {"training": MAPPED(samples).map(lambda batch: batch, compiled=True)},
        lambda samples: {"training": MAPPED(list(zip(*samples, strict=True)))},
        lambda samples: {"validation": Loader(samples)},
        lambda samples: {"validation": jl.in_batches(samples, 4).map(lambda batch: batch, compiled=True)},
    ],
    ids=["loader", "map", "compiled map", "source", "validation", "validation, compiled map"],
)
def test_on_request_each_batch_is_looked_into_as_it_is_read(data: Any, steps_per_dispatch: Any) -> None:
    changes = data(spoilt(3)) | {"steps_per_dispatch": steps_per_dispatch, "check": "all"}
    with pytest.raises(ValueError, match=r"(training|validation): (batch \d's|the first batch's) target is 3 at"):
        small.training_loop(**changes).fit(small.model(), epochs=1)


def test_a_batch_is_told_by_its_index_and_the_wild_value_by_its_place() -> None:
    training_loop = small.training_loop(training=[Loader(spoilt(-1, 10))], check="all", steps_per_dispatch=2)
    with pytest.raises(ValueError, match=r"training: batch 2's target is -1 at \(2,\)") as caught:
        training_loop.fit(small.model(), epochs=1)
    error: Any = caught.value
    assert int(error.loop.step) == 2


def test_on_request_the_batches_of_a_loop_of_ones_own_are_looked_into() -> None:
    training_loop = small.training_loop(check="all")
    loop = training_loop.begin_epoch(training_loop.start(small.model(), epochs=1))
    batch = listed(spoilt(3))[2]
    for step in (training_loop.train_step, training_loop.eval_step):
        with pytest.raises(ValueError, match=r"batch: batch 0's target is 3 at \(1,\)"):
            step(loop, batch)
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *listed(spoilt(np.nan)))
    with pytest.raises(ValueError, match=r"batches: batch 2's input is NaN at \(1, 2\)"):
        training_loop.run_steps(loop, stacked)
    jax.make_jaxpr(training_loop.train_step)(loop, batch)
    small.training_loop().train_step(loop, batch)


@pytest.mark.parametrize("check", ["first", "memory"])
def test_a_loader_is_not_looked_into_beyond_its_first_batch_unless_asked(check: Any) -> None:
    small.training_loop(training=[Loader(spoilt(3))], check=check).fit(small.model(), epochs=1)
    with pytest.raises(ValueError, match=r"training: the first batch's target is 3 at \(1,\)"):
        small.training_loop(training=[Loader(spoilt(3, 1))], check=check).fit(small.model(), epochs=1)


def test_a_jax_array_is_looked_into_as_one_of_numpy() -> None:
    samples = tuple(map(jnp.asarray, small.samples(12)))
    batches = listed((samples[0], samples[1].at[1].set(3)))
    with pytest.raises(ValueError, match="training: the first batch's target is 3 at"):
        small.training_loop(training=[batches]).fit(small.model(), epochs=1)


def test_what_is_not_looked_into_can_be_chosen_and_else_is_refused() -> None:
    small.training_loop(training=[listed(spoilt(3))], check="first").fit(small.model(), epochs=1)
    with pytest.raises(ValueError, match="`check` must be 'first' or 'memory' or 'all', got 'none'"):
        small.training_loop(check="none")


def test_what_is_mapped_from_a_file_is_not_read_through(tmp_path: Path) -> None:
    inputs, labels = spoilt(3)
    mapped = np.memmap(tmp_path / "labels", labels.dtype, "w+", shape=labels.shape)
    mapped[:] = labels
    samples = (inputs, mapped)
    small.training_loop(validation=jl.in_batches(samples, 4)).fit(small.model(), epochs=1)


def test_samples_are_looked_into_once_and_are_not_kept_alive() -> None:
    passed, done = Passed(), []
    array = np.zeros(3)
    for key in ("key", "key", "other"):
        if not passed.holds(key, [array]):
            done.append(key)
            passed.add(key, [array])
    assert done == ["key", "other"]
    alive = weakref.ref(array)
    del array
    gc.collect()
    assert alive() is None
    assert passed._arrays == {}


def test_the_images_of_a_data_set_are_looked_into_in_no_time() -> None:
    inputs = np.zeros((60_000, 28, 28, 1), np.float32)
    inputs[-1, 5, 5, 0] = np.nan
    labels = np.zeros(60_000, np.int64)
    inspection = Inspection("memory", softmax_cross_entropy, (), None, Passed())
    batches = jl.in_batches((inputs, labels), 128)
    seconds = []
    for _ in range(3):
        start = time.process_time()
        with pytest.raises(ValueError, match=r"input is NaN at \(59999, 5, 5, 0\)"):
            inspection.numbers(batches, lambda: (inputs[:1], labels[:1], None), "training")
        inspection.targets(batches, lambda: (inputs[:1], labels[:1], None), np.zeros((128, 10)), "training")
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.2


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_a_nan_of_any_precision_is_found(dtype: Any) -> None:
    inputs = np.ones((4, 3), np.float32)
    inputs[2, 1] = np.nan
    inspection = Inspection("memory", mean_squared_error, (), None, Passed())
    with pytest.raises(ValueError, match=r"input is NaN at \(2, 1\)"):
        inspection.numbers(None, lambda: (inputs.astype(jnp.dtype(dtype)), np.zeros(4), None), "training")
    infinite = np.where(np.isnan(inputs), -np.inf, inputs).astype(jnp.dtype(dtype))
    inspection.numbers(None, lambda: (infinite, np.zeros(4), None), "training")


def test_a_target_that_is_nan_is_refused_where_the_loss_is_known_to_be_so() -> None:
    batch = (np.zeros((2, 1)), np.array([[0.0], [np.nan]]), None)
    Inspection("memory", lambda output, target: target, (), None, Passed()).numbers(None, lambda: batch, "training")
    with pytest.raises(ValueError, match=r"target is NaN at \(1, 0\). Clean the data, or give .* weight 0"):
        Inspection("memory", mean_squared_error, (), None, Passed()).numbers(None, lambda: batch, "training")


@pytest.mark.parametrize("check", ["memory", "all"])
@pytest.mark.parametrize("part", ["target", "weight"])
def test_what_a_callback_replaces_before_the_loss_sees_it_is_not_refused(check: str, part: str) -> None:
    def replacing(loop: jl.Loop, event: jl.Event) -> jl.Loop:
        if event is not jl.Event.BATCH_START or loop.phase is not jl.Phase.TRAINING:
            return loop
        if part == "target":
            return loop.replace(target=loop.target - 1)
        return loop.replace(weight=jnp.where(loop.target == 3, 0, loop.weight))

    images, labels = small.samples(12)
    data = (images, labels + 1, np.ones(12, np.float32))
    given: dict[str, Any] = {"training": jl.TrainingEpochs(data, 4), "callbacks": [replacing], "check": check}
    loop, _ = small.training_loop(validation=None, **given).fit(small.model(), 1)
    assert int(loop.step) == 3
    with pytest.raises(ValueError, match="validation: the samples' target is 3"):  # where it is not replaced
        small.training_loop(validation=data, **given).fit(small.model(), 1)
    if part == "target":
        plain, _ = small.training_loop(training=jl.TrainingEpochs((images, labels), 4)).fit(small.model(), 1)
        small.assert_close(loop.model.params, plain.model.params)
