"""Plain containers go through JSON."""

import json
from collections import OrderedDict, namedtuple

import jax
import numpy as np
import pytest

from jaxloop.checkpoint.plain import filled, plain

Pair = namedtuple("Pair", "one other")


@pytest.mark.parametrize("tree", [1.0, None, (), {}, {"b": [1, (2, None)], "a": {"c": 3}}, (np.zeros(2), [])])
def test_a_plain_tree_is_the_same_after_json(tree) -> None:
    leaves, structure = jax.tree.flatten(tree)
    again = filled(json.loads(json.dumps(plain(tree))), iter(leaves))
    assert jax.tree.structure(again) == structure
    assert all(one is other for one, other in zip(jax.tree.leaves(again), leaves, strict=True))


@pytest.mark.parametrize("tree", [Pair(1, 2), {"a": Pair(1, 2)}, [OrderedDict(a=1)], {1: 2}])
def test_other_containers_have_no_plain_structure(tree) -> None:
    assert plain(tree) is None
