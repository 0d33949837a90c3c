"""Fits with an optimizer of several groups: which rates are applied, logged, reduced, tested, and brought back."""

import functools
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxloop as jl
from jaxloop.callbacks import CSVLogger, hyperparameter_scheduler, learning_rate_scheduler, reduce_on_plateau
from jaxloop.testing import check_callback
from tests import small
from tests.callbacks.spying import spy
from tests.compiling import counted_compiles
from tests.devices import run_on_devices
from tests.event_files import only_run, scalars

SEGMENTS = [
    jl.ScheduleSegment(jl.shapes.linear, start_rate=0.0, end_rate=1.0, step_count=3),
    jl.ScheduleSegment(jl.shapes.linear, end_rate=0.0),
]
SIX_STEPS = [0, 0.5, 1, 2 / 3, 1 / 3, 0]


def groups(kernel: float = 0.5, bias: float = 0.25) -> Any:
    """AdamW for the kernel, a momentum for the bias."""
    parts = {
        "kernel": optax.inject_hyperparams(optax.adamw)(learning_rate=kernel, weight_decay=0.125),
        "bias": optax.inject_hyperparams(optax.sgd)(learning_rate=bias, momentum=0.9),
    }
    return optax.partition(parts, {"kernel": "kernel", "bias": "bias"})


def training_loop(*callbacks: Any, **changes: Any) -> jl.TrainingLoop:
    return small.training_loop(**({"optimizer": groups(), "callbacks": list(callbacks)} | changes))


def scaled_schedules() -> list[Any]:
    """A schedule for all groups, and one of another hyperparameter for one group."""
    return [
        learning_rate_scheduler(SEGMENTS, scale={"kernel": 0.125, "bias": 1.0}),
        hyperparameter_scheduler("weight_decay", SEGMENTS, group="kernel"),
        reduce_on_plateau(hyperparameter="momentum", min_delta=100.0, patience=1),
    ]


@functools.cache
def scaled(steps_per_dispatch: int | str) -> tuple[jl.Loop, jl.History]:
    return training_loop(*scaled_schedules(), steps_per_dispatch=steps_per_dispatch).fit(small.model(), 2)


@pytest.mark.parametrize("steps_per_dispatch", [1, 3, "auto"])
def test_each_group_has_the_schedule_times_its_factor(steps_per_dispatch: int | str) -> None:
    _, history = scaled(steps_per_dispatch)
    np.testing.assert_allclose(history.batches["learning_rate/bias"], SIX_STEPS, atol=1e-6)
    np.testing.assert_allclose(history.batches["learning_rate/kernel"], np.multiply(0.125, SIX_STEPS), atol=1e-7)
    np.testing.assert_allclose(history.batches["weight_decay"], SIX_STEPS, atol=1e-6)
    assert "learning_rate" not in history.batches
    assert "learning_rate" not in history.epochs


@pytest.mark.parametrize("steps_per_dispatch", [3, "auto"])
def test_however_many_steps_a_dispatch_takes_the_run_is_the_same(steps_per_dispatch: int | str) -> None:
    small.assert_trees_equal(scaled(1)[0], scaled(steps_per_dispatch)[0])


def test_a_run_is_that_of_the_two_optimizers_by_hand() -> None:
    model, batches = small.model(), jl.TrainingEpochs(small.samples(12), batch_size=4)
    rates, params = np.array(SIX_STEPS, np.float32), dict(model.params)
    momentum, first, second, step = 0.9, jnp.zeros((4, 3)), jnp.zeros((4, 3)), 0
    trace = jnp.zeros(3)

    def loss(params: Any, images: Any, labels: Any) -> Any:
        return jl.losses.softmax_cross_entropy(images @ params["kernel"] + params["bias"], labels).mean()

    for epoch in range(2):
        for batch in batches[epoch]:
            gradient = jax.grad(loss)(params, *batch)
            trace = gradient["bias"] + momentum * trace
            first = 0.9 * first + 0.1 * gradient["kernel"]
            second = 0.999 * second + 0.001 * gradient["kernel"] ** 2
            scale = first / (1 - 0.9 ** (step + 1)) / (jnp.sqrt(second / (1 - 0.999 ** (step + 1))) + 1e-8)
            decayed = scale + rates[step] * params["kernel"]  # the decay has the same schedule, not scaled
            params = {
                "kernel": params["kernel"] - 0.125 * rates[step] * decayed,
                "bias": params["bias"] - rates[step] * trace,
            }
            step += 1
    found = scaled(1)[0].model.params
    np.testing.assert_allclose(found["kernel"], params["kernel"], rtol=1e-5)
    np.testing.assert_allclose(found["bias"], params["bias"], rtol=1e-5, atol=1e-7)


def test_the_rate_that_is_logged_is_the_one_that_the_part_was_given() -> None:
    spied = optax.inject_hyperparams(spy)(learning_rate=0.5)
    optimizer = optax.partition({"kernel": spied, "bias": spied}, {"kernel": "kernel", "bias": "bias"})
    schedulers = [
        learning_rate_scheduler(SEGMENTS, group="bias"),
        learning_rate_scheduler(jl.warmup_cosine(0.25, warmup=3), group="kernel"),
    ]
    loop, history = training_loop(*schedulers, optimizer=optimizer).fit(small.model(), 2)
    for name in ("kernel", "bias"):
        seen = loop.opt_state.inner_states[name].inner_state.inner_state.rates[:6]
        np.testing.assert_array_equal(history.batches[f"learning_rate/{name}"], seen)
    np.testing.assert_allclose(history.batches["learning_rate/kernel"][:3], [0, 0.125, 0.25], rtol=1e-6)


def test_a_group_without_a_scheduler_keeps_its_rate() -> None:
    _, history = training_loop(learning_rate_scheduler(SEGMENTS, group="bias")).fit(small.model(), 2)
    np.testing.assert_allclose(history.batches["learning_rate/bias"], SIX_STEPS, atol=1e-6)
    np.testing.assert_array_equal(history.batches["learning_rate/kernel"], np.full(6, 0.5))


def test_a_group_that_is_frozen_has_no_rate_and_the_other_is_the_only_one() -> None:
    parts = {"kernel": optax.inject_hyperparams(optax.sgd)(learning_rate=0.5), "bias": optax.set_to_zero()}
    optimizer = optax.partition(parts, {"kernel": "kernel", "bias": "bias"})
    by_name = training_loop(learning_rate_scheduler(SEGMENTS, group="kernel"), optimizer=optimizer)
    plain = training_loop(learning_rate_scheduler(SEGMENTS), optimizer=optimizer)
    (loop, history), (other, _) = by_name.fit(small.model(), 2), plain.fit(small.model(), 2)
    small.assert_trees_equal(loop, other)
    np.testing.assert_allclose(history.batches["learning_rate"], SIX_STEPS, atol=1e-6)
    np.testing.assert_array_equal(loop.model.params["bias"], np.zeros(3))


def test_every_log_has_a_column_for_each_group(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pandas = pytest.importorskip("pandas")
    loggers = [CSVLogger(tmp_path / "log.csv"), jl.callbacks.TensorBoardLogger(tmp_path / "board")]
    made = training_loop(*scaled_schedules(), *loggers, progress=True)
    loop, history = made.fit(small.model(), 2)
    header, *rows = (tmp_path / "log.csv").read_text().splitlines()
    assert header == "epoch,batch,loss,accuracy,phase,step,learning_rate/bias,learning_rate/kernel,weight_decay"
    assert len(rows) == 10
    table = pandas.read_csv(tmp_path / "log.csv").query("phase == 'training' and `learning_rate/bias` >= 0")
    expected = np.asarray(history.batches["learning_rate/kernel"], np.float32)
    np.testing.assert_array_equal(table["learning_rate/kernel"].astype(np.float32), expected)
    assert list(history.to_pandas("batches")["learning_rate/bias"]) == list(history.batches["learning_rate/bias"])
    written = scalars(only_run(tmp_path / "board") / "train")
    (tag,) = [tag for tag in written if re.fullmatch(r"batch.learning_rate/kernel", tag)]
    np.testing.assert_array_equal(np.float32([*written[tag].values()]), expected)
    assert any(re.fullmatch(r"epoch.learning_rate/bias", tag) for tag in written)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Epoch")]
    assert "learning_rate/bias 1, learning_rate/kernel 0.125" in lines[0]
    after, _ = made.fit(loop, 1)  # the same columns: the log goes on
    assert int(after.step) == 9
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 16


def test_the_rate_of_each_group_has_a_curve() -> None:
    pytest.importorskip("matplotlib")
    *_, panel = scaled(1)[1].plot().axes
    assert panel.get_title(loc="left") == "learning_rate"
    curves = {line.get_label(): line for line in panel.get_lines()}
    np.testing.assert_allclose(np.asarray(curves["kernel"].get_ydata()), np.multiply(0.125, SIX_STEPS), atol=1e-7)
    assert [text.get_text() for text in panel.get_legend().get_texts()] == ["bias", "kernel"]


def test_a_rate_of_a_group_cannot_be_drawn_as_a_metric() -> None:
    with pytest.raises(ValueError, match=r"no column 'learning_rate/bias' to draw; there are loss, accuracy, weight_d"):
        scaled(1)[1].plot(names=["learning_rate/bias"])


def test_a_plateau_reduces_each_group_by_the_same_factor() -> None:
    plateau = reduce_on_plateau(factor=0.5, patience=1, min_delta=100.0, min_rate=0.1)
    _, history = training_loop(plateau, metrics=[]).fit(small.model(), 5)
    # The first epoch improves on nothing. `min_rate` is a floor for both.
    np.testing.assert_allclose(history.epochs["learning_rate/kernel"], [0.5, 0.5, 0.25, 0.125, 0.1], rtol=1e-6)
    np.testing.assert_allclose(history.epochs["learning_rate/bias"], [0.25, 0.25, 0.125, 0.1, 0.1], rtol=1e-6)


def test_a_plateau_reduces_one_group_alone() -> None:
    plateau = reduce_on_plateau(factor=0.5, patience=1, min_delta=100.0, group="kernel")
    _, history = training_loop(plateau, metrics=[]).fit(small.model(), 4)
    np.testing.assert_allclose(history.epochs["learning_rate/kernel"], [0.5, 0.5, 0.25, 0.125])
    np.testing.assert_allclose(history.epochs["learning_rate/bias"], [0.25] * 4)


def learnable(count: int) -> tuple[np.ndarray, np.ndarray]:
    images = np.random.default_rng(3).normal(size=(count, 4)).astype(np.float32)
    return images, images[:, :3].argmax(1).astype(np.int32)


def test_the_finder_tests_one_group_or_all_by_their_factors() -> None:
    model = small.model()
    parts = {name: optax.inject_hyperparams(optax.sgd)(learning_rate=1e-9) for name in ("kernel", "bias")}
    optimizer = optax.partition(parts, {"kernel": "kernel", "bias": "bias"})
    made = training_loop(optimizer=optimizer, training=jl.TrainingEpochs(learnable(800), 8))
    alone = training_loop(training=made.training, optimizer=optax.inject_hyperparams(optax.sgd)(learning_rate=1e-9))
    expected = jl.find_learning_rate(alone, model, steps=100, start_rate=1e-4)
    both = jl.find_learning_rate(made, model, steps=100, start_rate=1e-4, scale={"kernel": 1.0, "bias": 1.0})
    np.testing.assert_array_equal(both.rates, expected.rates)
    np.testing.assert_allclose(both.losses, expected.losses, rtol=1e-6)
    kernel = jl.find_learning_rate(made, model, steps=100, start_rate=1e-4, group="kernel")
    np.testing.assert_array_equal(kernel.rates, expected.rates)
    assert kernel.losses[-1] != expected.losses[-1]
    halved = jl.find_learning_rate(made, model, steps=100, start_rate=1e-4, scale={"kernel": 0.5, "bias": 0.5})
    np.testing.assert_array_equal(halved.rates[:50], expected.rates[:50])
    assert halved.suggestion > expected.suggestion
    with pytest.raises(ValueError, match=r"find_learning_rate: 2 parts .* 'bias', 'kernel'.* as by group='bias'; or"):
        jl.find_learning_rate(made, model, steps=100)


def test_what_a_loop_keeps_is_told_by_its_group(capsys: pytest.CaptureFixture[str]) -> None:
    made = training_loop(progress=True)
    loop = made.start(small.model(), epochs=1).with_hyperparameter("learning_rate", 0.75, group="bias")
    made.fit(loop, 1)
    printed = capsys.readouterr().out
    assert "The loop keeps its learning_rate/bias, 0.75; the optimizer was made with 0.25" in printed
    assert "learning_rate/kernel, 0.5;" not in printed


def unfreeze(loop: jl.Loop, event: jl.Event) -> jl.Loop:
    """The kernel has the rate 0 in the first two epochs."""
    if event is not jl.Event.EPOCH_START:
        return loop
    rate = jnp.where(loop.epoch_index < 2, 0.0, 0.125)
    return loop.with_hyperparameter("learning_rate", rate, group="kernel")


@pytest.mark.parametrize("steps_per_dispatch", [1, 3])
def test_a_group_with_the_rate_0_stays_to_the_bit_and_moves_once_it_is_unfrozen(steps_per_dispatch: int) -> None:
    made = training_loop(unfreeze, steps_per_dispatch=steps_per_dispatch)
    loop, first = made.fit(small.model(), 2)
    np.testing.assert_array_equal(loop.model.params["kernel"], small.model().params["kernel"])
    assert (np.asarray(loop.model.params["bias"]) != 0).all()
    adam = loop.opt_state.inner_states["kernel"].inner_state.inner_state[0]
    assert int(adam.count) == 6  # the moments go on meanwhile
    assert (np.asarray(adam.nu["kernel"]) > 0).all()
    with counted_compiles() as counts:
        loop, whole = made.fit(small.model(), 3)
    assert counts == {}
    assert whole.epochs["learning_rate/kernel"].tolist() == [0, 0, 0.125]
    assert whole.epochs["loss"][:2].tolist() == first.epochs["loss"].tolist()
    assert (np.asarray(loop.model.params["kernel"]) != small.model().params["kernel"]).all()


@pytest.mark.slow
@pytest.mark.parametrize("make", [scaled_schedules, lambda: unfreeze], ids=["schedules", "unfreezing"])
def test_a_run_that_is_resumed_in_its_middle_is_the_same_to_the_bit(make: Any) -> None:
    check_callback(lambda folder: make(), training_loop=training_loop, model=small.model, every=5)


def test_two_schedulers_of_one_group_are_refused() -> None:
    both = [learning_rate_scheduler(SEGMENTS, group="bias"), scaled_schedules()[0]]
    with pytest.raises(ValueError, match=r"both record 'learning_rate/bias', and would overwrite each other"):
        training_loop(*both).fit(small.model(), 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, r"^learning_rate_scheduler: 2 parts .* the groups 'bias', 'kernel'\. .* scale={'bias': 1\.0, 'kernel': 1"),
        ({"group": "head"}, r"^learning_rate_scheduler\(group='head'\): no group 'head' .* there are 'bias', 'kernel'"),
        ({"scale": {"bias": 1.0}}, r"^learning_rate_scheduler\(scale=.*\): .* leaves out 'kernel'"),
    ],
)
def test_a_scheduler_that_does_not_fit_the_groups_is_refused_before_any_step_is_compiled(
    arguments: dict[str, Any], message: str
) -> None:
    with counted_compiles() as counts, pytest.raises(ValueError, match=message):
        training_loop(learning_rate_scheduler(SEGMENTS, **arguments)).fit(small.model(), 2)
    assert [name for name in counts if "_step" in name] == []


def test_the_stepwise_loop_has_the_rates_too() -> None:
    made = training_loop(*scaled_schedules())
    loop, rates = made.start(small.model(), epochs=2), []
    for epoch in range(2):
        loop = made.begin_epoch(loop)
        for batch in made.training[epoch]:
            loop = made.train_step(loop, batch)
            rates.append([float(loop.stats[f"learning_rate/{name}"]) for name in ("bias", "kernel")])
        loop = made.end_epoch(loop)
    np.testing.assert_allclose(rates, np.outer(SIX_STEPS, [1.0, 0.125]), atol=1e-6)


MESH = """
import jax, numpy as np
import jaxloop as jl
from tests import small
from tests.callbacks.test_rates_of_groups import groups, scaled_schedules

def run(on, steps):
    made = small.training_loop(
        training=jl.TrainingEpochs(small.samples(48, features=16), 16), steps_per_dispatch=steps, optimizer=groups(),
        validation=jl.in_batches(small.samples(21, seed=1, features=16), 8), callbacks=scaled_schedules())
    return made.fit(small.model(features=16), 3, on=on)

expected, history = run("cpu:0", 3)
for on in (jl.data_parallel(), jl.fully_sharded(at_least=16)):
    found, other = run(on, 3)
    for name in history.batches:
        np.testing.assert_allclose(other.batches[name], history.batches[name], rtol=1e-5, atol=1e-6)
    for one, two in zip(jax.tree.leaves(expected.opt_state), jax.tree.leaves(found.opt_state), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-6)
moment = found.opt_state.inner_states["kernel"].inner_state.inner_state[0].mu["kernel"]
assert not moment.sharding.is_fully_replicated
assert found.model.params["kernel"].sharding == moment.sharding
"""


@pytest.mark.slow
def test_over_eight_devices_the_rates_and_the_run_are_those_of_one() -> None:
    run_on_devices(MESH, 8)


def test_weight_decay_stands_still_with_the_rate_unless_it_comes_after_it() -> None:
    params = {"kernel": jnp.ones(2)}

    def moved(optimizer: Any) -> np.ndarray:
        return np.asarray(optimizer.update({"kernel": jnp.ones(2)}, optimizer.init(params), params)[0]["kernel"])

    inject = optax.inject_hyperparams
    np.testing.assert_array_equal(moved(inject(optax.adamw)(learning_rate=0.0, weight_decay=0.1)), np.zeros(2))
    after = optax.chain(inject(optax.adam)(learning_rate=0.0), optax.add_decayed_weights(-1e-4))
    np.testing.assert_allclose(moved(after), np.full(2, -1e-4))


def test_the_gradient_of_a_group_with_the_rate_0_counts_in_the_norm_that_is_clipped() -> None:
    def norm(loop: jl.Loop, event: jl.Event) -> jl.Loop:
        return loop.record("norm", optax.tree.norm(loop.gradient)) if event is jl.Event.UPDATE_START else loop

    made = training_loop(unfreeze, jl.callbacks.clip_by_global_norm(1e-3), norm)
    loop, history = made.fit(small.model(), 1)
    np.testing.assert_allclose(history.batches["norm"], np.full(3, 1e-3), rtol=1e-5)
    assert np.linalg.norm(loop.opt_state.inner_states["bias"].inner_state.inner_state[0].trace["bias"]) < 2e-3
