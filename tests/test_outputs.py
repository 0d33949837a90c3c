"""Parts of outputs and targets: by key, field or place, and refused by name if there is none."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from jaxloop.outputs import keys_of, name_by_output, output_and_target, part_of


class Pair(NamedTuple):
    digit: Any
    parity: Any


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Heads:
    digit: Any
    parity: Any


A, B = np.zeros((3, 2)), np.ones(3)
TREES = [{"digit": A, "parity": B}, Pair(A, B), Heads(A, B)]


@pytest.mark.parametrize("tree", TREES, ids=lambda tree: type(tree).__name__)
def test_a_part_is_found_by_name(tree: Any) -> None:
    assert keys_of(tree) == ("digit", "parity")
    assert part_of("accuracy", "output", tree, "parity") is B
    with pytest.raises(ValueError, match=r"^accuracy: the output has no part 'dig', only 'digit', 'parity'. Choose"):
        part_of("accuracy", "output", tree, "dig")


@pytest.mark.parametrize("tree", [(A, B), [A, B], Pair(A, B)], ids=lambda tree: type(tree).__name__)
def test_a_part_is_found_by_place(tree: Any) -> None:
    assert part_of("accuracy", "target", tree, 1) is B
    for place in (2, -1):
        with pytest.raises(ValueError, match="accuracy: the target has no part"):
            part_of("accuracy", "target", tree, place)


def test_one_array_has_no_parts() -> None:
    assert keys_of(A) is None
    with pytest.raises(ValueError, match=r"the output is one array, of shape \(3, 2\), so it has no part 'digit'"):
        part_of("accuracy", "output", A, "digit")


def test_the_target_goes_by_the_key_of_the_output_or_by_its_own() -> None:
    output, target = {"digit": A, "parity": B}, {"digit": B, "other": A}
    found = output_and_target("", output, target, "digit", None)
    assert found[0] is A
    assert found[1] is B
    assert output_and_target("", output, target, "parity", "other")[1] is A
    assert output_and_target("", output, B, "digit", None)[1] is B  # one target for all outputs
    with pytest.raises(ValueError, match=r"accuracy: the target has no part 'parity', only 'digit', 'other'"):
        output_and_target("accuracy", output, target, "parity", None)


def test_names_begin_with_the_output() -> None:
    names = [name_by_output("accuracy", key) for key in (None, "digit", 0)]
    assert names == ["accuracy", "digit_accuracy", "output0_accuracy"]
