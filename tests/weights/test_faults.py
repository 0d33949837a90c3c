"""How faults are told: the first few in one line, and all of them below."""

from jaxloop.weights.faults import Faults


def test_without_a_fault_there_is_none() -> None:
    assert not Faults()
    assert (Faults().summary(), Faults().listing()) == ("", "")


def test_a_few_are_told_in_one_line() -> None:
    faults = Faults(missing=["b", "a"], left_over=["c"], shapes=["d [1] for [2]"], dtypes=["e int8 for int4"])
    assert faults
    assert faults.summary() == (
        "it lacks a, b; the model has no c; shapes differ: d [1] for [2]; dtypes differ: e int8 for int4"
    )
    assert faults.listing() == ""


def test_many_are_cut_in_the_line_and_listed_whole_below_it() -> None:
    faults = Faults(missing=[f"n{index}" for index in range(6)], others=["its a is not its b"])
    assert faults.summary() == "it lacks n0, n1, n2, n3 and 2 more; its a is not its b"
    assert faults.listing().splitlines() == [
        *("", "it lacks (6):", "  n0", "  n1", "  n2", "  n3", "  n4", "  n5"),
        *("further (1):", "  its a is not its b"),
    ]
