"""The small training has all that a resume can get wrong."""

import jax
import numpy as np

from jaxloop.testing.training import small_model, small_training_loop


def test_it_has_four_batches_in_each_phase_and_changes_all_that_can_change() -> None:
    model = small_model()
    loop, history = small_training_loop().fit(model, 2)
    assert (int(loop.step), len(history.batches["loss"])) == (8, 8)
    assert history.batches["learning_rate"].tolist() == [np.float32(0.02)] * 8
    for before, after in zip(jax.tree.leaves(model), jax.tree.leaves(loop.model), strict=True):
        assert not np.array_equal(before, after)


def test_dropout_depends_on_the_key_in_training_only() -> None:
    model, inputs = small_model(), np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    outputs = [model.apply(model.params, model.state, inputs, training=True, key=jax.random.key(n))[0] for n in (0, 1)]
    assert not np.array_equal(*outputs)
    outputs = [model.apply(model.params, model.state, inputs, training=False, key=None)[0] for _ in range(2)]
    np.testing.assert_array_equal(*outputs)
