"""Tests of the methods for those who write the loop themselves: together they are a fit."""

import jax
import numpy as np
import pytest

from jaxloop.by_hand import ByHand
from tests import small


def test_the_parts_make_a_fit() -> None:
    training_loop = small.training_loop()
    expected, _ = training_loop.fit(small.model(), 2)
    loop = training_loop.start(small.model(), epochs=2)
    for epoch in range(2):
        loop = training_loop.begin_epoch(loop)
        for batch in training_loop.training[epoch]:
            loop = training_loop.train_step(loop, batch)
        for batch in training_loop.validation:
            loop = training_loop.eval_step(loop, batch)
        loop = training_loop.end_epoch(loop)
    jax.tree.map(np.testing.assert_array_equal, loop.model.params, expected.model.params)
    np.testing.assert_array_equal(loop.stats["validation_loss"], expected.stats["validation_loss"])


def test_it_needs_a_setup() -> None:
    with pytest.raises(NotImplementedError):
        _ = ByHand().setup
