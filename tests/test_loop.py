"""`Loop`: a run as an immutable value."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxloop.events import Phase, Scope
from jaxloop.loop import COUNTERS
from jaxloop.measured import UNMEASURED


def bits(key):
    return jax.random.key_data(key).tolist()


def test_a_new_loop_has_counted_nothing(loop):
    assert [getattr(loop, name) for name in COUNTERS] == [0] * 6


def test_a_loop_cannot_be_edited(loop):
    with pytest.raises(dataclasses.FrozenInstanceError):
        loop.step = 3


def test_a_loop_is_a_pytree_that_comes_back_whole(loop):
    again = jax.tree.map(lambda leaf: leaf, loop.replace(phase=Phase.TRAINING))
    assert again.phase is Phase.TRAINING
    np.testing.assert_array_equal(again.model.params["weight"], loop.model.params["weight"])


def test_replace_changes_the_named_fields_alone(loop):
    after = loop.replace(step=np.int32(4), epoch=np.int32(2))
    assert (int(after.step), int(after.epoch), after.model) == (4, 2, loop.model)


def test_replace_leaves_the_loop_itself_as_it_was(loop):
    loop.replace(step=np.int32(4))
    assert loop.step == 0


def test_replace_refuses_a_field_that_is_not_there_with_those_that_are(loop):
    with pytest.raises(TypeError, match=r"no field 'steps'; a loop has .*\bstep\b"):
        loop.replace(steps=3)


def test_cancel_sets_the_bit_of_its_scope(loop):
    assert loop.cancel(Scope.EPOCH).stop == 8


def test_cancelling_two_scopes_sets_both_bits(loop):
    assert loop.cancel(Scope.BATCH).cancel(Scope.FIT).stop == 17


def test_cancelling_twice_is_cancelling_once(loop):
    assert loop.cancel(Scope.FIT).cancel(Scope.FIT).stop == 16


@pytest.mark.parametrize("when", [False, np.False_])
def test_cancel_where_it_is_known_not_to_hold_is_the_loop_itself(loop, when):
    assert loop.cancel(Scope.FIT, when=when) is loop


@pytest.mark.parametrize(("when", "stop"), [(True, 4), (False, 0)])
def test_cancel_takes_a_traced_condition(loop, when, stop):
    assert jax.jit(lambda when: loop.cancel(Scope.VALIDATION, when=when).stop)(when) == stop


def test_a_cancel_keeps_the_kind_of_stop(loop):
    assert loop.cancel(Scope.FIT).stop.dtype == np.int32
    assert loop.cancel(Scope.FIT, when=jnp.array(True)).stop.dtype == np.int32


@pytest.mark.parametrize("scope", [16, "FIT", Phase.TRAINING])
def test_cancel_refuses_what_is_no_scope(loop, scope):
    with pytest.raises(TypeError, match=r"Loop.cancel: `scope` must be a jaxloop.Scope, got"):
        loop.cancel(scope)


@pytest.mark.parametrize("value", [3.0, np.float64(3), jnp.bfloat16(3), jnp.float16(3)])
def test_record_keeps_any_number_with_a_fraction_as_float32(loop, value):
    recorded = loop.record("norm", value).stats["norm"]
    assert recorded == 3.0
    assert recorded.dtype == jnp.float32


@pytest.mark.parametrize("value", [3, np.int8(3), np.uint16(3), np.int64(3), jnp.int32(3), jnp.uint8(3), np.array(3)])
def test_record_keeps_a_whole_number_as_one(loop, value):
    recorded = loop.record("tokens", value).stats["tokens"]
    assert (recorded, recorded.dtype, recorded.weak_type) == (3, jnp.int32, False)


@pytest.mark.parametrize("value", [2**32 - 2, np.uint32(2**32 - 2), jnp.uint32(2**32 - 2)])
def test_record_keeps_a_large_whole_number_where_it_is_given_as_one(loop, value):
    if isinstance(value, int):
        loop = loop.record("tokens", np.uint32(0))
    recorded = loop.record("tokens", value).stats["tokens"]
    assert (int(recorded), recorded.dtype) == (2**32 - 2, jnp.uint32)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (2**31, "'tokens' is 2147483648, which int32 does not hold. Record it in parts, in a larger unit"),
        (np.int64(2**40), "'tokens' is 1099511627776, which int32 does not hold"),
        (np.array(2**40), "'tokens' is 1099511627776, which int32 does not hold"),
        (10**30, "'tokens' is 10{30}, which int32 does not hold"),
        (-(2**31), "'tokens' is -2147483648, which int32 does not hold"),
        (np.uint32(2**32 - 1), "'tokens' is 4294967295, which uint32 does not hold"),
        (1j, "'tokens' must be a real number, got complex"),
    ],
)
def test_record_refuses_a_number_that_it_cannot_keep(loop, value, message):
    with pytest.raises(ValueError, match=f"Loop.record: {message}"):
        loop.record("tokens", value)


def test_record_refuses_integers_of_64_bits_and_says_what_holds_them(loop):
    with jax.enable_x64(True):
        with pytest.raises(ValueError, match=r"'tokens' is int64, and integers are kept in 32 bits. Write `.astype"):
            loop.record("tokens", jnp.sum(jnp.ones(3, jnp.int32)).astype(jnp.int64))
        assert loop.record("tokens", jnp.where(jnp.bool_(True), 1, 0)).stats["tokens"].dtype == jnp.int32
        assert loop.record("norm", jnp.float64(0.5)).stats["norm"].dtype == jnp.float32


def test_record_takes_a_whole_number_for_what_has_a_fraction_elsewhere(loop):
    recorded = loop.record("norm", 0.5).record("norm", 2).stats["norm"]
    assert (recorded, recorded.dtype) == (2.0, jnp.float32)


def test_record_refuses_integers_that_a_float_elsewhere_may_not_hold(loop):
    with pytest.raises(ValueError, match=r"'norm' is float32 elsewhere and int32 here.*`.astype\(jnp.float32\)`"):
        loop.record("norm", 0.5).record("norm", jnp.int32(2))
    with pytest.raises(ValueError, match=r"'norm' is 16777217, which float32 does not hold"):
        loop.record("norm", 0.5).record("norm", 2**24 + 1)


def test_a_recorded_learning_rate_is_a_float_whatever_the_optimizer_keeps(loop):
    assert loop.record("learning_rate", jnp.int32(1)).stats["learning_rate"].dtype == jnp.float32


def test_what_evaluation_depends_on_is_known_by_name(loop):
    loop = loop.remember("average", 1.0, lasting=True).remember("count", 0)
    assert loop.evaluated == frozenset()
    assert loop.remember("average", 2.0, evaluated=True).evaluated == {"average"}
    assert loop.remember("average", 2.0, evaluated=True).callback_state["average"] == 1.0


def test_record_replaces_what_was_there_and_keeps_the_rest(loop):
    assert loop.record("a", 1).record("b", 2).record("a", 3).stats == {"a": 3, "b": 2}


def test_record_refuses_what_is_no_scalar_with_the_fix(loop):
    with pytest.raises(ValueError, match=r"'norm' must be a scalar, got shape \(3,\). Reduce it"):
        loop.record("norm", jnp.ones(3))


@pytest.mark.parametrize("name", ["step", "epoch", "batch_index"])
def test_record_refuses_the_name_of_a_counter(loop, name):
    with pytest.raises(ValueError, match=f"'{name}'"):
        loop.record(name, 1.0)


def test_remember_sets_what_is_not_there(loop):
    assert loop.remember("best", 3.0).callback_state == {"best": 3.0}


def test_remember_keeps_what_is_there(loop):
    assert loop.remember("best", 3.0).remember("best", 5.0).callback_state == {"best": 3.0}


@pytest.mark.parametrize(("value", "dtype"), [(3, jnp.int32), (3.0, jnp.float32), (True, jnp.bool_)])
def test_a_remembered_number_has_a_type_of_its_own(loop, value, dtype):
    memory = loop.remember("best", value).callback_state["best"]
    assert memory.dtype == dtype
    assert not memory.weak_type


def test_remember_takes_a_typed_key(loop):
    memory = loop.remember("noise", jax.random.key(7)).callback_state["noise"]
    assert bits(memory) == bits(jax.random.key(7))


def test_what_is_remembered_is_forgotten_by_default(loop):
    assert loop.remember("best", 3.0).lasting == frozenset()


def test_what_lasts_is_known_by_name(loop):
    assert loop.remember("ema", 3.0, lasting=True).remember("best", 1.0).lasting == {"ema"}


def test_step_keys_of_one_step_and_name_are_the_same(loop):
    assert bits(loop.step_key("noise")) == bits(loop.step_key("noise"))


def test_a_step_key_is_a_typed_key(loop):
    assert jnp.issubdtype(loop.step_key("noise").dtype, jax.dtypes.prng_key)


def test_step_keys_differ_by_name_step_run_and_phase(loop):
    loops = [
        loop,
        loop.replace(step=np.int32(1)),
        loop.replace(key=jax.random.key(1)),
        loop.replace(phase=Phase.VALIDATION),
        loop.replace(phase=Phase.VALIDATION, batch_index=np.int32(1)),
    ]
    keys = [tuple(bits(one.step_key(name))) for one in loops for name in ("noise", "dropout")]
    assert len(set(keys)) == 10


def test_step_keys_of_training_do_not_depend_on_the_position_in_the_epoch(loop):
    training = loop.replace(phase=Phase.TRAINING)
    moved = training.replace(batch_index=np.int32(5), epoch=np.int32(2))
    assert bits(moved.step_key("noise")) == bits(training.step_key("noise"))


def test_step_keys_agree_when_traced(loop):
    traced = jax.jit(lambda step: jax.random.key_data(loop.replace(step=step).step_key("noise")))(3)
    assert traced.tolist() == bits(loop.replace(step=np.int32(3)).step_key("noise"))


def test_the_repr_tells_position_size_and_statistics(loop):
    shown = loop.replace(phase=Phase.TRAINING, step=np.int32(7), epoch_count=np.int32(3), batch_count=np.int32(5))
    shown = shown.record("loss", 0.5).record("accuracy", np.nan).record("tokens", 2**24 + 1)
    shown = shown.replace(stats=shown.stats | {"norm": UNMEASURED}).remember("ema", 1.0)
    assert repr(shown) == (
        "Loop(training, step 7, epoch 0 of 3, batch 0 of 5)\n"
        "  model: 8 parameters in 2 arrays, 3.2e-05 MB\n"
        "  stats: loss 0.5, accuracy nan, tokens 16777217\n"
        "  callbacks remember: ema"
    )


def test_the_repr_of_a_new_loop_says_that_nothing_was_measured(loop):
    assert "between phases" in repr(loop)
    assert "nothing measured yet" in repr(loop)


def test_the_repr_of_a_traced_loop_does_not_raise(loop):
    shown = []
    jax.eval_shape(lambda loop: shown.append(repr(loop)), loop.record("loss", 0.5))
    assert "step ?" in shown[0]


def test_the_repr_of_an_abstract_loop_is_as_short(loop):
    shown = repr(jax.eval_shape(lambda loop: loop, loop.record("loss", 0.5)))
    assert "step ?" in shown
    assert "stats: loss ?" in shown


def test_the_repr_of_a_deleted_loop_does_not_raise(loop):
    device_loop = jax.device_put(loop.record("loss", 0.5), may_alias=False)
    jax.tree.map(lambda leaf: leaf.delete(), device_loop)
    assert "step ?" in repr(device_loop)


def test_the_repr_of_many_loops_in_one_shows_their_shape(loop):
    assert "step int32[4]" in repr(jax.tree.map(lambda leaf: jnp.stack([leaf] * 4), loop))
