"""What is kept from fit to fit, and what lets it go."""

import copy
import gc
import weakref

import jax
import numpy as np
import pytest

import jaxloop as jl
from jaxloop.placement import resolve
from jaxloop.programs.memo import ByIdentity, Memo, Residents
from tests import small


def test_what_is_made_is_kept_by_its_key():
    memo, made = Memo(), []
    for _ in range(2):
        assert memo.get(("a", 1), lambda: made.append(1) or "value") == "value"
    assert (made, len(memo)) == ([1], 1)


def test_what_depends_on_an_object_is_forgotten_with_it():
    memo, one, other = Memo(), object(), object()
    memo.get(("a", one), lambda: 1)
    memo.get(("a", other), lambda: 2)
    memo.get("made", lambda: one)
    memo.forget({id(one)})
    assert len(memo) == 1
    assert memo.get(("a", other), lambda: 3) == 2


def test_objects_are_known_by_identity_and_held_so_that_no_other_has_their_number():
    one, other = [1], [1]
    assert ByIdentity(one) == ByIdentity(one) != ByIdentity(other)
    assert hash(ByIdentity(one)) == id(one)


def test_a_copy_begins_empty():
    memo, residents = Memo(), Residents()
    samples = np.zeros(3)
    memo.get("a", lambda: 1)
    residents.on(resolve(None), samples)
    assert (len(copy.deepcopy(memo)), len(copy.deepcopy(residents))) == (0, 0)


def test_samples_are_put_on_a_device_once_and_share_no_memory_with_the_users():
    residents, samples = Residents(), (np.arange(6.0, dtype=np.float32), np.arange(6))
    one, other = (residents.on(resolve(None), samples) for _ in range(2))
    assert [first is second for first, second in zip(one, other, strict=True)] == [True, True]
    samples[0][:] = 7
    np.testing.assert_array_equal(one[0], np.arange(6.0))
    del samples
    gc.collect()
    assert len(residents) == 0


@pytest.mark.slow
def test_resident_samples_are_let_go_with_their_training_loop():
    data = jl.TrainingEpochs(small.samples(12), 4, resident=True)
    training_loop = small.training_loop(training=data, steps_per_dispatch=2)
    loop, _ = training_loop.fit(small.model(), 1)
    (_, copies), *_ = training_loop.setup.residents._copies.values()
    held = [weakref.ref(leaf) for leaf in copies]
    del training_loop, copies
    gc.collect()
    assert [ref() for ref in held] == [None, None]
    assert int(loop.step) == 3
    assert len(jax.tree.leaves(data.samples)) == 2
