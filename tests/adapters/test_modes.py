"""What a call is told of the mode: found out from its arguments, or said."""

import functools
from typing import Any

import jax
import pytest

from jaxloop.adapters.modes import NAMES, Modes, Told, modes_of, speaks


class Module:
    """Has methods that tell what they were told."""

    size = 3

    def __init__(self, part: Any = None):
        self.part = part

    def __call__(self, input: Any, train: bool = False) -> Any:
        return input, train

    def encode(self, input: Any, other: Any, *, deterministic: "bool | None" = None) -> Any:
        return input, other, deterministic

    def quiet(self, input: Any) -> Any:
        return input


class Quiet:
    def __call__(self, input: Any) -> Any:
        return input


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_each_name_is_told_the_mode(name, training):
    namespace: dict[str, Any] = {}
    exec(f"def call(input, {name}): ...", namespace)
    assert Modes().told(namespace["call"], training) == {name: NAMES[name] is training}


def test_several_are_told_but_equinox_old_name_is_not():
    def call(input, train, *, deterministic): ...

    def of_equinox(input, *, key=None, inference=None, deterministic=None): ...

    assert Modes().told(call, training=True) == {"train": True, "deterministic": False}
    assert Modes().told(of_equinox, training=True) == {"inference": False}


@pytest.mark.parametrize(
    "call",
    [
        lambda input: input,
        lambda input, *train: input,
        lambda input, **train: input,
        lambda input, train, /: input,
        functools.partial(lambda input, train: input, train=True),
        jax.tree_util.Partial(lambda input, train: input, train=True),
    ],
    ids=["none", "positional", "any", "positional only", "fixed", "fixed in a pytree"],
)
def test_what_takes_no_mode_or_has_it_fixed_is_told_nothing(call):
    assert Modes().told(call, training=True) == {}


def test_an_argument_that_is_no_bool_is_refused_with_the_fix():
    def call(input, train: float = 0.5): ...

    with pytest.raises(ValueError, match=r"here: whether `train: float = 0.5` of .*call says the mode is not clear.*"):
        modes_of(None, call, "here")
    assert modes_of({}, call, "here").told(call, training=True) == {}
    assert modes_of({"train": (0.5, 0.0)}, call, "here").told(call, training=False) == {"train": 0.0}


def test_an_annotation_that_is_no_bool_is_refused_and_others_are_not():
    def number(input, training: int): ...

    def optional(input, training: "bool | None" = None): ...

    def free(input, training: Any = None): ...

    with pytest.raises(ValueError, match="training: int"):
        Modes().told(number, training=True)
    assert Modes().told(optional, training=True) == Modes().told(free, training=True) == {"training": True}


def test_what_is_said_goes_to_what_takes_it():
    modes = modes_of({"rate": (0.1, 0.0), "train": [1, 0]}, lambda input, rate, train: ..., "here")
    assert modes.told(lambda input, rate: ..., training=True) == {"rate": 0.1}
    assert modes.told(lambda input, **named: ..., training=False) == {"rate": 0.0, "train": 0}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["train"], r"`modes` must map each argument to what it is in training and in inference"),
        ({"train": True}, r"`modes` must map each argument to what it is in training and in inference"),
        ({"train": (1, 2, 3)}, r"modes\['train'\] must be two values, in training and in inference, got 3"),
        ({"mode": (1, 2)}, r"`modes` names 'mode', which .* does not take; it takes 'input', 'train'"),
    ],
    ids=["list", "no pair", "three", "unknown"],
)
def test_modes_that_do_not_fit_are_refused(given, message):
    with pytest.raises((TypeError, ValueError), match=f"here: {message}"):
        modes_of(given, lambda input, train: ..., "here")


def test_modes_that_say_the_same_are_equal():
    assert modes_of({"train": (1, 0)}, Module(), "here") == modes_of({"train": (1, 0)}, Module(), "here")
    assert modes_of({"train": (1, 0)}, Module(), "here") != modes_of(None, Module(), "here")


def test_methods_are_told_what_they_are_not_given():
    told = Told(Module(), Modes(), training=True)
    assert told(1) == (1, True)
    assert told(1, False) == told(1, train=False) == (1, False)
    assert told.encode(1, 2) == (1, 2, False)
    assert told.encode(1, 2, deterministic=True) == (1, 2, True)
    assert told.quiet(1) == 1


def test_a_part_is_told_too_and_all_else_is_the_modules_own():
    quiet, part = Quiet(), Module()
    module = Module(part)
    told = Told(module, Modes(), training=True)
    assert told.part(1) == (1, True)
    told.part = quiet
    assert module.part is told.part is quiet
    assert told.size == 3


def test_a_class_speaks_if_a_method_takes_the_mode():
    assert speaks(Module, Modes())
    assert not speaks(Quiet, Modes())
    assert not speaks(Module, modes_of({"rate": (1, 2)}, lambda input, rate: ..., "here"))
