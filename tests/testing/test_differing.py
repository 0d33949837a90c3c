"""In what two runs differ is named by its exact place, with both values."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from jaxloop.testing.differing import differences, matches, unequal_attributes
from jaxloop.testing.outcome import Outcome, number

ONE, TWO = number(np.float32(1)), number(np.float32(2))
EXPECTED = Outcome(
    told=[["FIT_START, epoch 0", {}], ["row of training batch 1 of epoch 1", {"loss": ONE, "rate": ONE}]],
    history={"stopped": ["completed"], "loss of batches": [ONE, TWO]},
    leaves={".step": number(np.int32(3)), ".model.params['w']": number(np.zeros((2, 3), np.float32))},
    files={"log.csv": ["'a\\n'", "'b\\n'"]},
    attributes={"Counting: count": 3},
)
CHANGED = np.zeros((2, 3), np.float32)
CHANGED[1, 2] = 7


@pytest.mark.parametrize(
    ("changes", "kind", "expected"),
    [
        (
            {"told": [EXPECTED.told[0], ["row of training batch 1 of epoch 1", {"loss": TWO, "rate": ONE}]]},
            "told",
            "row of training batch 1 of epoch 1 (call 2 to host callbacks), loss: 2.0, should be 1.0",
        ),
        (
            {"told": [EXPECTED.told[1]]},
            "told",
            "call 1 to host callbacks: row of training batch 1 of epoch 1, should be FIT_START, epoch 0",
        ),
        (
            {"told": EXPECTED.told[:1]},
            "told",
            "1 calls to host callbacks, should be 2: row of training batch 1 of epoch 1 is missing",
        ),
        (
            {"told": [*EXPECTED.told, EXPECTED.told[0]]},
            "told",
            "3 calls to host callbacks, should be 2: FIT_START, epoch 0 is too many",
        ),
        (
            {"history": EXPECTED.history | {"stopped": ["cancelled"]}},
            "history",
            "history, stopped, row 1: 'cancelled', should be 'completed'",
        ),
        (
            {"history": EXPECTED.history | {"loss of batches": [ONE, ONE]}},
            "history",
            "history, loss of batches, row 2: 1.0, should be 2.0",
        ),
        (
            {"history": EXPECTED.history | {"loss of batches": [ONE]}},
            "history",
            "history, loss of batches: 1 rows, should be 2",
        ),
        ({"leaves": EXPECTED.leaves | {".step": number(np.int32(4))}}, "leaf", "leaf .step: 4, should be 3"),
        (
            {"leaves": EXPECTED.leaves | {".step": number(np.float32(3))}},
            "leaf",
            "leaf .step: float32, should be int32",
        ),
        (
            {"leaves": EXPECTED.leaves | {".model.params['w']": number(CHANGED)}},
            "leaf",
            "leaf .model.params['w']: at [1, 2]: 7.0, should be 0.0",
        ),
        (
            {"leaves": {".step": EXPECTED.leaves[".step"]}},
            "leaf",
            "leaf .model.params['w']: nothing, should be float32[2, 3] [[0. 0. 0.]  [0. 0. 0.]]",
        ),
        ({"files": {}}, "file", "file log.csv: it is missing"),
        ({"files": EXPECTED.files | {"b": []}}, "file", "file b: it should not be there"),
        (
            {"files": {"log.csv": ["'a\\n'", "'c\\n'"]}},
            "file",
            "file log.csv, line 2: 'c\\n', should be 'b\\n' (2 lines, should be 2)",
        ),
        (
            {"files": {"log.csv": ["'a\\n'"]}},
            "file",
            "file log.csv: line 2 is missing, 'b\\n' (1 lines, should be 2)",
        ),
        ({"attributes": {"Counting: count": 2}}, "attribute", "attribute of Counting: count: 2, should be 3"),
    ],
)
def test_a_difference_is_named(changes: dict[str, Any], kind: str, expected: str) -> None:
    assert differences(EXPECTED, EXPECTED) == []
    (found,) = differences(EXPECTED, replace(EXPECTED, **changes))
    assert (found.kind, found.text) == (kind, expected)


def test_numbers_that_look_alike_are_shown_by_their_bits() -> None:
    nans = [number(np.array(bits, np.uint32).view(np.float32)) for bits in (0x7FC00000, 0x7FC00001)]
    one, other = (replace(EXPECTED, leaves={".x": nan}) for nan in nans)
    assert differences(one, other)[0].text == "leaf .x: nan with the bits 0100c07f, should be 0000c07f"


def test_what_is_more_than_it_should_be_is_marked() -> None:
    longer = replace(EXPECTED, files={"log.csv": ["'a\\n'", "'b\\n'", "'b\\n'"]})
    (found,) = differences(EXPECTED, longer)
    assert (found.more, found.text) == (True, "file log.csv: line 3 is too many, 'b\\n' (3 lines, should be 2)")


def test_only_the_first_of_each_kind_are_told_and_the_rest_is_counted() -> None:
    many = replace(EXPECTED, leaves={f".{name}": ONE for name in "abcdef"})
    found = differences(many, replace(many, leaves={f".{name}": TWO for name in "abcdef"}))
    assert [each.text[:7] for each in found] == ["leaf .a", "leaf .b", "leaf .c"]
    assert found[-1].text == "leaf .c: 2.0, should be 1.0; and 3 more of this kind"


@pytest.mark.parametrize("ignore", ["loss", "*", ".model*", "log.csv", "count", "Counting: *"])
def test_what_is_ignored_may_differ(ignore: str) -> None:
    other = Outcome(
        told=[EXPECTED.told[0], [EXPECTED.told[1][0], {"loss": TWO, "rate": ONE}]],
        history=EXPECTED.history | {"loss of batches": [TWO, TWO]},
        leaves=EXPECTED.leaves | {".model.params['w']": number(CHANGED)},
        files={"log.csv": []},
        attributes={"Counting: count": 0},
    )
    kinds = {each.kind for each in differences(EXPECTED, other)}
    assert kinds == {"told", "history", "leaf", "file", "attribute"}
    left = {each.kind for each in differences(EXPECTED, other, ignore=[ignore])}
    gone = {"loss": {"told", "history"}, ".model*": {"leaf"}, "log.csv": {"file"}, "*": kinds}
    assert kinds - left == gone.get(ignore, {"attribute"})


def test_attributes_that_differ_anyway_are_left_out() -> None:
    other = replace(EXPECTED, attributes={"Counting: count": 0})
    assert unequal_attributes(EXPECTED, other) == {"Counting: count"}
    assert (
        differences(EXPECTED, other, unsteady=["Counting: count"]) == differences(EXPECTED, other, unsteady=None) == []
    )


def test_patterns_are_those_of_file_names() -> None:
    assert matches("a/b.png", ["*.png"])
    assert not matches("a.png", ["b*", "A*"])
