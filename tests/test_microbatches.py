"""A batch taken as microbatches gives what it gives at once: gradient, losses, output; state runs through in turn."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxloop as jl
from jaxloop.events import Phase
from jaxloop.forward import hold
from jaxloop.gradient import Variables, differentiate, value_and_gradient
from jaxloop.loop import new_loop
from jaxloop.metrics import resolve
from jaxloop.microbatches import differentiated, gradient_at, loss_at
from jaxloop.step_spec import StepSpec
from tests import small

COUNT = 12
CROSS_ENTROPY = optax.softmax_cross_entropy_with_integer_labels


def at_hand(batch: Any, model: Any = None) -> jl.Loop:
    """A loop in training with a batch at hand."""
    model = model or small.model()
    loop = new_loop(model, optax.sgd(0.1).init(model.params), jax.random.key(0))
    return hold(loop.replace(phase=Phase.TRAINING), jax.tree.map(jnp.asarray, batch))


def spec_of(accumulate: int, loss_fn: Any = jl.losses.softmax_cross_entropy, own: Any = None) -> StepSpec:
    return StepSpec(optax.sgd(0.1), loss_fn, own, resolve([]), accumulate=accumulate)


def batch_of(weight: Any = None) -> Any:
    return (*small.samples(COUNT), weight)


def assert_same_step(one: jl.Loop, whole: jl.Loop) -> None:
    for name in ("gradient", "output", "loss"):
        for leaf, other in zip(jax.tree.leaves(getattr(one, name)), jax.tree.leaves(getattr(whole, name)), strict=True):
            assert (leaf.shape, leaf.dtype) == (other.shape, other.dtype)
            np.testing.assert_allclose(leaf, other, rtol=1e-5, atol=1e-6)


WEIGHTS = {
    "none": None,
    "ragged": np.array([1, 0, 2, 0.5, 0, 0, 3, 1, 0, 0, 0, 1], np.float32),
    "one microbatch of four has none": (np.arange(COUNT) % 4 != 1).astype(np.float32),
    "bools": np.arange(COUNT) < 7,
    "nothing": np.zeros(COUNT, np.float32),
}


@pytest.mark.parametrize("weight", WEIGHTS.values(), ids=WEIGHTS)
@pytest.mark.parametrize("accumulate", [2, 4, 12])
def test_gradient_output_and_losses_are_those_of_the_whole_batch(accumulate: int, weight: Any) -> None:
    batch = batch_of(weight)
    if weight is not None:
        batch[0][weight == 0] = 1e30  # the loss of what weighs nothing is not finite
        batch[1][weight == 0] = -100
    whole = differentiate(spec_of(1), at_hand(batch))
    after = jax.jit(functools.partial(differentiated, spec_of(accumulate)))(at_hand(batch))
    assert_same_step(after, whole)
    assert int(after.model.state["passes"]) == accumulate
    if weight is None:

        def by_hand(params: Any) -> Any:
            return CROSS_ENTROPY(batch[0] @ params["kernel"] + params["bias"], batch[1]).mean()

        small.assert_close(after.gradient, jax.grad(by_hand)(whole.model.params))


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.floats(0, 4, width=32), min_size=COUNT, max_size=COUNT),
    st.sampled_from([2, 3, 4, 6, 12]),
)
def test_whatever_the_weights_the_parameters_after_sgd_are_the_same(weights: list[float], accumulate: int) -> None:
    loop = at_hand(batch_of(np.array(weights, np.float32)))
    whole, after = _jitted(1)(loop), _jitted(accumulate)(loop)
    for leaf, other in zip(jax.tree.leaves(after.gradient), jax.tree.leaves(whole.gradient), strict=True):
        np.testing.assert_allclose(0.1 * leaf, 0.1 * other, rtol=0, atol=1e-6)


@functools.cache
def _jitted(accumulate: int) -> Any:
    return jax.jit(functools.partial(differentiated, spec_of(accumulate)))


@pytest.mark.slow
def test_weights_of_tokens_count_each_token_once() -> None:
    random = np.random.default_rng(0)
    input = random.normal(size=(8, 5, 4)).astype(np.float32)
    target = random.integers(0, 3, (8, 5)).astype(np.int32)
    weight = (np.arange(5) < random.integers(0, 6, 8)[:, None]).astype(np.float32)
    weight[1::4] = 0  # the second of four microbatches
    loop = at_hand((input, target, weight))
    whole = differentiate(spec_of(1), loop)
    assert_same_step(differentiated(spec_of(4), loop), whole)

    def by_hand(params: Any) -> Any:
        losses = CROSS_ENTROPY(input @ params["kernel"] + params["bias"], target)
        return (losses * weight).sum() / weight.sum()

    small.assert_close(differentiated(spec_of(4), loop).gradient, jax.grad(by_hand)(loop.model.params))


def test_with_one_microbatch_the_program_is_what_it_was() -> None:
    loop = at_hand(batch_of(WEIGHTS["ragged"]))
    texts = [str(jax.make_jaxpr(functools.partial(made, spec_of(1)))(loop)) for made in (differentiate, differentiated)]
    assert texts[0] == texts[1]


def test_a_microbatch_has_every_nth_row() -> None:
    seen = []

    def apply(params: Any, state: Any, input: Any, *, training: bool, key: Any) -> Any:
        jax.debug.callback(lambda rows: seen.append(rows[:, 0].tolist()), input, ordered=True)
        return input @ params["kernel"] + params["bias"], state

    input = np.repeat(np.arange(6, dtype=np.float32)[:, None], 4, axis=1)
    loop = at_hand((input, np.zeros(6, np.int32), None), small.model().replace(apply=apply))
    after = differentiated(spec_of(3), loop)
    jax.effects_barrier()
    assert seen == [[0, 3], [1, 4], [2, 5]]
    small.assert_close(after.output, input @ loop.model.params["kernel"])


def test_no_two_microbatches_share_a_mask_and_one_alone_has_the_mask_that_it_had() -> None:
    def noise(params: Any, state: Any, input: Any, *, training: bool, key: Any) -> Any:
        return input @ params["kernel"] + jax.random.uniform(key, (input.shape[0], 3)), state

    loop = at_hand((np.zeros((6, 4), np.float32), np.zeros(6, np.int32), None), small.model().replace(apply=noise))
    assert len(np.unique(differentiated(spec_of(3), loop).output)) == 18
    one = differentiated(spec_of(1), loop).output
    np.testing.assert_array_equal(one, jax.random.uniform(loop.step_key("model"), (6, 3)))


def test_batch_statistics_run_through_the_microbatches_in_turn() -> None:
    network = nnx.BatchNorm(4, momentum=0.9, rngs=nnx.Rngs(0))
    model = jl.Model.from_nnx(network)
    input = small.samples(8)[0] + 1
    loop = at_hand((input, np.zeros((8, 4), np.float32), None), model)
    after = differentiated(spec_of(2, jl.losses.mean_squared_error), loop)
    expected = np.zeros(4)
    for rows in (input[0::2], input[1::2]):
        expected = 0.9 * expected + 0.1 * rows.mean(axis=0)
    np.testing.assert_allclose(after.model.state["mean"], expected, rtol=1e-5)


class Scaled:
    """`scale` times the input: the state keeps the gradient by the scale."""

    overwritten = ("scale",)

    def __call__(self, params: Any, state: Any, input: Any, *, training: bool, key: Any) -> Any:
        return state["scale"] * input @ params["kernel"] + params["bias"], state


def test_state_that_is_overwritten_by_its_gradient_runs_through_them_too() -> None:
    loop = at_hand(batch_of(), small.model().replace(apply=Scaled(), state={"scale": np.float32(1)}))
    after = differentiated(spec_of(2, lambda output, target: output.sum(axis=-1)), loop)
    kernel, input = loop.model.params["kernel"], loop.input
    first, last = ((input[rows] @ kernel).sum() / COUNT for rows in (slice(0, None, 2), slice(1, None, 2)))
    np.testing.assert_allclose(after.model.state["scale"], last, rtol=1e-5)
    by_hand = np.asarray(input[0::2].sum(axis=0) + first * input[1::2].sum(axis=0)) / COUNT
    np.testing.assert_allclose(after.gradient["kernel"], np.repeat(by_hand[:, None], 3, axis=1), rtol=1e-5, atol=1e-6)


def test_of_complex_parameters_the_gradient_rises_as_that_of_the_whole_batch() -> None:
    def apply(params: Any, state: Any, input: Any, *, training: bool, key: Any) -> Any:
        return jnp.abs(input @ params["kernel"]) ** 2 + params["bias"], state

    model = small.model()
    model = model.replace(apply=apply, params=model.params | {"kernel": model.params["kernel"] * (1 + 0.5j)})
    loop = at_hand(batch_of(WEIGHTS["ragged"]), model)
    assert_same_step(differentiated(spec_of(4), loop), differentiate(spec_of(1), loop))


def test_gradients_of_narrow_parameters_are_summed_in_wide_floats() -> None:
    """In bfloat16, 256 + 1 is 256."""

    def apply(params: Any, state: Any, input: Any, *, training: bool, key: Any) -> Any:
        return params["scale"] * input, state

    model = jl.Model(apply, {"scale": jnp.bfloat16(1)}, {})
    input = np.array([256] + [1] * 7, np.float32) * 8
    loop = at_hand((input, np.zeros(8, np.float32), None), model)
    gradient = differentiated(spec_of(8, lambda output, target: output), loop).gradient["scale"]
    assert gradient.dtype == jnp.bfloat16
    assert float(gradient) == float(jnp.bfloat16(263)) == 264


def own(model: jl.Model, loop: jl.Loop) -> Any:
    """A step that remembers how often it was taken, and records two means of its batch."""
    output, model = model.forward(loop.input, loop.step_key("model"))
    loss = jl.losses.softmax_cross_entropy(output, loop.target)
    weight = jnp.ones(loss.shape) if loop.weight is None else loop.weight
    mean = jnp.sum(loss * weight) / jnp.sum(weight)
    loop = loop.record("mean", mean).record("taken", (loop.step + 1).astype(jnp.float32))
    seen = {"seen": loop.callback_state["seen"] + 1}
    return loss, loop.replace(output=output, model=model, callback_state=loop.callback_state | seen)


@pytest.mark.parametrize("weight", [None, WEIGHTS["ragged"], WEIGHTS["one microbatch of four has none"]])
def test_a_step_of_ones_own_remembers_in_turn_and_records_the_mean_by_weight(weight: Any) -> None:
    loop = at_hand(batch_of(weight)).replace(callback_state={"seen": np.int32(0)})
    whole, after = (differentiated(spec_of(n, None, own), loop) for n in (1, 4))
    assert_same_step(after, whole)
    assert int(after.callback_state["seen"]) == 4
    np.testing.assert_allclose(after.stats["mean"], whole.stats["mean"], rtol=1e-6)
    assert float(after.stats["taken"]) == 1


def test_what_one_microbatch_cancels_is_cancelled() -> None:
    def cancelling(model: jl.Model, loop: jl.Loop) -> Any:
        loss, loop = own(model, loop)
        return loss, loop.cancel(jl.Scope.EPOCH, when=jnp.any(loop.input > 99))

    batch = batch_of()
    loop = at_hand(batch).replace(callback_state={"seen": np.int32(0)})
    assert int(differentiated(spec_of(4, None, cancelling), loop).stop) == 0
    batch[0][1] = 100  # in the second of four
    loop = at_hand(batch).replace(callback_state={"seen": np.int32(0)})
    assert int(differentiated(spec_of(4, None, cancelling), loop).stop) == jl.Scope.EPOCH
    assert differentiated(spec_of(4, None, own), loop).stop is loop.stop


def changing(**changes: Any) -> Any:
    def step(model: jl.Model, loop: jl.Loop) -> Any:
        loss, after = own(model, loop)
        return loss, after.replace(**{name: change(after) for name, change in changes.items()})

    return step


@pytest.mark.parametrize(
    ("step", "what"),
    [
        (changing(key=lambda loop: jax.random.fold_in(loop.key, 1)), "changes loop.key, and it is not known"),
        (changing(output=lambda loop: {"logits": loop.output, "aux": loop.loss}), None),
        (changing(output=lambda loop: {"logits": loop.output, "aux": jnp.sum(loop.output)}), r"loop.output\['aux'\]"),
        (lambda model, loop: (own(model, loop)[0], own(model, loop)[1].record("count", 3)), "records 'count' as int32"),
        (lambda model, loop: (own(model, loop)[0].mean(), own(model, loop)[1]), "the loss is a scalar, so that 4"),
        (lambda model, loop: (own(model, loop)[0][:2], own(model, loop)[1]), r"loop.loss must have a row for each of"),
    ],
)
def test_what_a_step_of_ones_own_does_to_the_whole_is_refused(step: Any, what: str | None) -> None:
    loop = at_hand(batch_of()).replace(callback_state={"seen": np.int32(0)})
    if what is None:
        assert differentiated(spec_of(4, None, step), loop).output["logits"].shape == (COUNT, 3)
        return
    with pytest.raises(ValueError, match=what):
        differentiated(spec_of(4, None, step), loop)


def test_a_batch_that_cannot_be_split_is_refused_before_anything_is_compiled() -> None:
    with pytest.raises(ValueError, match=r"12 = 5 \* 2 \+ 2. Give a batch size of 10 or 15"):
        small.training_loop(training=[[batch_of()[:2]]], accumulate=5).fit(small.model(), 1)
    with pytest.raises(ValueError, match=r"12 = 16 \* 0 \+ 12. Give a batch size of 16, or"):
        small.training_loop(training=[[batch_of()[:2]]], accumulate=16).fit(small.model(), 1)
    graphs = ({"nodes": np.ones((8, 4), np.float32), "edges": np.ones((6, 2), np.int32)}, np.ones(2, np.int32), None)
    with pytest.raises(ValueError, match=r"have the shapes \[6, 2\], \[8, 4\], \[2\], as those of several graphs"):
        differentiated(spec_of(2), at_hand(graphs))
    with pytest.raises(ValueError, match="a step without data has no batch to split"):
        differentiated(spec_of(2), at_hand((None, None, None)))
    with pytest.raises(ValueError, match="the loss is a scalar"):
        differentiated(spec_of(2, lambda output, target: jnp.mean(output)), at_hand(batch_of()))


def test_a_state_that_gets_wider_is_wide_from_the_start() -> None:
    def apply(params: Any, state: Any, input: Any, *, training: bool, key: Any) -> Any:
        return input @ params["kernel"] + params["bias"], {"mean": state["mean"] + jnp.float32(0.1)}

    model = small.model().replace(apply=apply, state={"mean": jnp.bfloat16(0)})
    loop, _ = small.training_loop(accumulate=2).fit(model, 1)
    assert loop.model.state["mean"].dtype == jnp.float32
    np.testing.assert_allclose(loop.model.state["mean"], 0.6, rtol=1e-5)


def test_loss_and_gradient_as_functions_are_those_of_the_step() -> None:
    loop = at_hand(batch_of(WEIGHTS["ragged"]))
    value, changes, gradient = value_and_gradient(
        lambda variables, loop: (loss_at(spec_of(4), variables.params, loop), {}),
        Variables(loop.model.params, {}),
        loop,
    )
    assert changes == {}
    small.assert_close(value, loss_at(spec_of(1), loop.model.params, loop))
    small.assert_close(gradient.params, differentiate(spec_of(1), loop).gradient)
    small.assert_close(gradient_at(spec_of(4), loop.model.params, loop), gradient.params)


@jl.on_host(jl.Event.UPDATE_START, reads="step")
def looking(loop: Any, event: jl.Event) -> None:
    assert loop.output.shape == (COUNT, 3)
    assert loop.loss.shape == (COUNT,)
    assert set(loop.gradient) == {"kernel", "bias"}


def fits(accumulate: int, **changes: Any) -> jl.TrainingLoop:
    input, target = small.samples(3 * COUNT)
    weight = (np.arange(3 * COUNT) % 5 < 3).astype(np.float32)
    batches = [tuple(part[at : at + COUNT] for part in (input, target, weight)) for at in (0, COUNT, 2 * COUNT)]
    arguments: dict[str, Any] = {"training": [batches] * 2, "metrics": ["accuracy"], "accumulate": accumulate}
    return small.training_loop(**(arguments | changes))


@pytest.fixture(scope="module")
def reference() -> tuple[jl.Loop, jl.History]:
    return fits(1).fit(small.model(), 2)


@pytest.mark.parametrize("changes", [{}, {"steps_per_dispatch": 3}, {"steps_per_dispatch": "auto"},
                                     {"callbacks": [looking]}], ids=["1", "3", "auto", "apart"])  # fmt: skip
def test_a_fit_is_the_same_however_its_steps_are_dispatched(reference: Any, changes: Any) -> None:
    loop, history = fits(4, **changes).fit(small.model(), 2)
    for leaf, other in zip(jax.tree.leaves(loop.model.params), jax.tree.leaves(reference[0].model.params), strict=True):
        np.testing.assert_allclose(leaf, other, rtol=0, atol=1e-6)
    assert int(loop.model.state["passes"]) == 4 * 6
    for name in ("loss", "accuracy", "validation_loss", "validation_accuracy"):
        np.testing.assert_allclose(history.epochs[name], reference[1].epochs[name], rtol=1e-5)


def test_steps_by_hand_are_those_of_the_fit(reference: Any) -> None:
    training_loop = fits(4)
    loop = training_loop.start(small.model(), epochs=2)
    for epoch in range(2):
        loop = training_loop.begin_epoch(loop)
        if epoch == 0:
            for batch in training_loop.training[0]:
                loop = training_loop.train_step(loop, batch)
        else:
            loop, rows = training_loop.run_steps(
                loop, jax.tree.map(lambda *each: np.stack(each), *training_loop.training[1])
            )
            assert rows["counted"].all()
        loop = training_loop.end_epoch(loop)
    small.assert_close(loop.model.params, reference[0].model.params)


def test_a_learning_rate_is_found_and_a_benchmark_made_in_microbatches() -> None:
    input = small.samples(256)[0]
    samples = (input, input[:, :3].argmax(axis=1).astype(np.int32))
    data = {"training": jl.TrainingEpochs(samples, batch_size=16), "validation": None}
    tests = [jl.find_learning_rate(small.training_loop(**data, accumulate=n), small.model(), steps=60) for n in (1, 4)]
    np.testing.assert_allclose(tests[1].losses, tests[0].losses, rtol=1e-4)
    measured = [
        jl.benchmark(small.training_loop(**data, accumulate=n), small.model(), calls=1, rounds=1, warmup=1)
        for n in (1, 4)
    ]
    assert measured[1].examples == 16
    assert measured[1].flops > 0.9 * measured[0].flops


@pytest.mark.parametrize("accumulate", [0, 1.5, True, "2"])
def test_a_number_of_microbatches_that_is_none_is_refused(accumulate: Any) -> None:
    with pytest.raises(ValueError, match="accumulate: it must be a whole number of at least 1"):
        small.training_loop(accumulate=accumulate)


def test_evaluation_is_not_split(reference: Any) -> None:
    whole, split = fits(1), fits(5)  # no batch of validation could be split by 5
    assert split.evaluate(reference[0], whole.validation) == whole.evaluate(reference[0], whole.validation)
    np.testing.assert_array_equal(split.predict(small.model(), small.samples(7)[0]),
                                  whole.predict(small.model(), small.samples(7)[0]))  # fmt: skip


def test_the_memory_is_that_of_one_microbatch() -> None:
    def deep(params: Any, state: Any, input: Any, *, training: bool, key: Any) -> Any:
        for _ in range(8):
            input = jnp.tanh(input @ params["kernel"])
        return input, state

    model = jl.Model(deep, {"kernel": np.eye(64, dtype=np.float32)}, {})
    data = np.ones((2048, 64), np.float32)
    temporaries = []
    for accumulate in (1, 8):
        loop = small.training_loop(
            training=[[(data, data)]],
            validation=None,
            optimizer=optax.sgd(0.1),
            loss_fn=jl.losses.mean_squared_error,
            metrics=[],
            accumulate=accumulate,
        )
        temporaries.append(loop.compile(model).training.memory["temporaries"])
    assert temporaries[1] < temporaries[0] / 2


class Picture(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.convolution = nnx.Conv(1, 4, (3, 3), rngs=rngs)
        self.head = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, input: jax.Array) -> jax.Array:
        return self.head(nnx.relu(self.convolution(input)).mean(axis=(1, 2)))


@pytest.mark.slow
@pytest.mark.parametrize("callbacks", [[], [jl.on_host(jl.Event.UPDATE_START, reads="step")(lambda loop, event: None)]])
def test_convolutions_stay_in_the_layout_that_a_cpu_runs_fast_in_a_loop(callbacks: Any, monkeypatch: Any) -> None:
    """Each program of a step is traced by `canonical`, or holds what was."""
    from jaxloop.engine import step_by_step
    from jaxloop.programs import canonical, programs

    seen: list[str] = []

    def watched(function: Any) -> Any:
        seen.append(getattr(function, "__name__", "partial"))
        return canonical.canonical(function)

    monkeypatch.setattr(programs, "canonical", watched)
    monkeypatch.setattr(step_by_step, "canonical", watched)
    input, target = small.samples(8, features=36)
    input = input.reshape(8, 6, 6, 1)
    made = [
        small.training_loop(
            training=[[(input, target)]], validation=None, metrics=[], accumulate=n, callbacks=callbacks
        )
        for n in (1, 2)
    ]
    model = jl.Model.from_nnx(Picture(nnx.Rngs(0)))
    whole, split = (training_loop.fit(model, 1)[0] for training_loop in made)
    small.assert_close(split.model.params, whole.model.params)
    loop = made[1].begin_epoch(made[1].start(model, epochs=1))
    small.assert_close(made[1].train_step(loop, (input, target)).model.params, whole.model.params)
    assert "checked" in seen
    assert ("run" in seen) == bool(callbacks)
