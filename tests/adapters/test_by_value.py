"""Static parts of programs, compared by value where they have one."""

from jaxloop.adapters.by_value import ByValue


def test_equal_values_are_equal_and_hash_alike():
    assert ByValue((1, "a")) == ByValue((1, "a"))
    assert hash(ByValue((1, "a"))) == hash(ByValue((1, "a")))


def test_other_values_are_not_equal():
    assert ByValue(1) != ByValue(2)
    assert ByValue(1) != 1


def test_what_cannot_be_hashed_equals_itself_alone():
    value = [1]
    first, second = ByValue(value), ByValue(value)
    assert first == first
    assert hash(first) == hash(first)
    assert first != second
