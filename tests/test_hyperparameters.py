"""Hyperparameters by name and by group: which groups an optimizer's state has, and what a value is set at."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxloop.hyperparameters import Aim, aim, columns, exposed, exposed_names, is_rate, the_one, with_value
from tests.compiling import counted_compiles

PARAMS = {"body": jnp.ones((3, 2)), "norm": jnp.ones(2), "head": jnp.ones(4)}


def sgd(rate: Any = 0.25, **others: Any) -> Any:
    return optax.inject_hyperparams(optax.sgd)(learning_rate=rate, **others)


def adamw(rate: float = 0.5) -> Any:
    return optax.inject_hyperparams(optax.adamw)(learning_rate=rate, weight_decay=0.125)


def by_name(**parts: Any) -> Any:
    """Each parameter in the group of its name, those without a part in `rest`."""
    return optax.partition(parts, {name: name if name in parts else "rest" for name in PARAMS})


TWO = by_name(head=sgd(0.5), body=adamw(0.25), rest=optax.set_to_zero())
GROUPS: dict[str, tuple[Any, list[str]]] = {
    "one": (sgd(), [""]),
    "one in a chain": (optax.chain(optax.clip(1.0), sgd()), [""]),
    "one of two labels": (by_name(head=sgd(), rest=optax.sgd(0.1)), ["head"]),
    "none": (optax.sgd(0.1), []),
    "labels": (TWO, ["body", "head"]),
    "labels by a function": (
        optax.partition({"a": sgd(), "b": sgd()}, lambda tree: {name: "ab"[name == "head"] for name in tree}),
        ["a", "b"],
    ),
    "whole numbers as labels": (
        optax.partition({0: sgd(), 1: sgd()}, {"body": 0, "norm": 0, "head": 1}),
        ["0", "1"],
    ),
    "in a chain, and over several steps": (
        optax.MultiSteps(optax.chain(optax.clip(1.0), TWO), 2).gradient_transformation(),
        ["body", "head"],
    ),
    "chains in labels": (
        by_name(head=optax.chain(optax.clip(1.0), sgd()), rest=optax.chain(optax.clip(1.0), adamw())),
        ["head", "rest"],
    ),
    "named chains in labels": (
        by_name(head=optax.named_chain(("clip", optax.clip(1.0)), ("sgd", sgd())), rest=adamw()),
        ["head", "rest"],
    ),
    "labels in labels": (
        by_name(head=sgd(), rest=optax.partition({"x": sgd(), "y": sgd()}, {"body": "x", "norm": "y", "head": "x"})),
        ["head", "rest/x", "rest/y"],
    ),
    "a named chain": (optax.named_chain(("first", sgd()), ("second", sgd())), ["first", "second"]),
    "two without a name": (optax.chain(sgd(), sgd()), ["0", "1"]),
    "two in one label": (by_name(head=optax.chain(sgd(), sgd()), rest=sgd()), ["head/0", "head/1", "rest"]),
    "one without a name beside labels": (optax.chain(sgd(), TWO), ["0", "body", "head"]),
    "masks": (
        optax.named_chain(
            ("head", optax.masked(sgd(), {"body": False, "norm": False, "head": True})),
            ("body", optax.masked(sgd(), {"body": True, "norm": False, "head": False})),
        ),
        ["head", "body"],
    ),
    "a wrapper": (optax.apply_if_finite(TWO, 3), ["body", "head"]),
}


@pytest.mark.parametrize(("optimizer", "groups"), GROUPS.values(), ids=GROUPS)
def test_a_group_has_the_shortest_name_that_tells_it_apart(optimizer: Any, groups: list[str]) -> None:
    assert [place.group for place in exposed(optimizer.init(PARAMS), "learning_rate")] == groups


@pytest.mark.parametrize(("optimizer", "groups"), GROUPS.values(), ids=GROUPS)
def test_a_value_is_set_in_its_group_alone(optimizer: Any, groups: list[str]) -> None:
    before = optimizer.init(PARAMS)
    places = exposed(before, "learning_rate")
    for chosen in places:
        after = with_value("here", before, chosen, 0.75)
        for old, new in zip(places, exposed(after, "learning_rate"), strict=True):
            assert new.value == (0.75 if old.path == chosen.path else old.value)
            assert new.value.dtype == jnp.float32


def test_a_value_that_is_set_is_the_one_that_is_applied() -> None:
    opt_state = TWO.init(PARAMS)
    opt_state = with_value("here", opt_state, the_one("here", opt_state, "learning_rate", "head"), 2.0)
    updates, _ = TWO.update(PARAMS, opt_state, PARAMS)
    np.testing.assert_array_equal(updates["head"], np.full(4, -2.0))
    np.testing.assert_array_equal(updates["norm"], np.zeros(2))
    # Adam's first step is the sign of the gradient, and the decay is 0.125 of the weight.
    np.testing.assert_allclose(updates["body"], np.full((3, 2), -0.25 * (1 + 0.125)), rtol=1e-6)


def test_columns_have_the_group_only_where_there_are_several() -> None:
    assert columns(sgd().init(PARAMS), "learning_rate") == {"learning_rate": 0.25}
    assert columns(by_name(head=sgd(), rest=optax.set_to_zero()).init(PARAMS), "learning_rate") == {
        "learning_rate": 0.25
    }
    assert columns(TWO.init(PARAMS), "learning_rate") == {"learning_rate/body": 0.25, "learning_rate/head": 0.5}
    assert columns(TWO.init(PARAMS), "weight_decay") == {"weight_decay": 0.125}
    assert columns(None, "learning_rate") == columns(optax.sgd(0.1).init(PARAMS), "learning_rate") == {}


def test_rates_are_told_by_their_columns() -> None:
    assert [name for name in ("learning_rate", "learning_rate/head", "learning_rates", "rate") if is_rate(name)] == [
        "learning_rate",
        "learning_rate/head",
    ]


def test_all_names_that_are_exposed_are_told() -> None:
    names = ["b1", "b2", "eps", "eps_root", "learning_rate", "weight_decay"]
    assert exposed_names(TWO.init(PARAMS)) == names
    assert exposed_names(optax.sgd(0.1).init(PARAMS)) == []


def test_only_the_group_that_has_a_schedule_of_its_own_is_refused() -> None:
    opt_state = by_name(head=sgd(optax.linear_schedule(1.0, 0.0, 4)), rest=sgd()).init(PARAMS)
    assert [place.scheduled for place in exposed(opt_state, "learning_rate")] == [True, False]
    head, rest = exposed(opt_state, "learning_rate")
    with pytest.raises(ValueError, match=r"^here: the optimizer drives 'learning_rate' of the group 'head' by a sched"):
        with_value("here", opt_state, head, 0.5)
    assert the_one("here", with_value("here", opt_state, rest, 0.5), "learning_rate", "rest").value == 0.5


@pytest.mark.parametrize(
    ("optimizer", "name", "group", "message"),
    [
        (TWO, "learning_rate", None, r"here: 2 parts of the optimizer expose 'learning_rate', the groups 'body', "
         r"'head'\. Say which one is meant, as by group='body'\.$"),
        (TWO, "learning_rate", "heed", r"here: no group 'heed' .* exposes 'learning_rate'; there are 'body', 'head'\."),
        (TWO, "learning_rate", "rest", r"here: no group 'rest' .* exposes 'learning_rate'; there are 'body', 'head'\."),
        (TWO, "weight_decay", "head", r"here: no group 'head' .* exposes 'weight_decay'; there is 'body'\. A part of"),
        (sgd(), "learning_rate", "head", r"here: the optimizer has no group 'head', nor any other: it exposes only"),
        (TWO, "learning_rate/head", None, r"no 'learning_rate/head'\. Write 'learning_rate' and group='head'\.$"),
        (TWO, "momentum", "head", r"here: the optimizer exposes no 'momentum', only b1, b2, eps, eps_root, le"),
    ],
)  # fmt: skip
def test_what_is_not_there_or_not_clear_is_refused_with_what_there_is(
    optimizer: Any, name: str, group: str | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        the_one("here", optimizer.init(PARAMS), name, group)


def test_an_aim_sets_one_group_or_all_by_their_factors() -> None:
    opt_state = TWO.init(PARAMS)
    at_one = aim("here", "learning_rate", "head").hit(opt_state, 2.0)
    assert columns(at_one, "learning_rate") == {"learning_rate/body": 0.25, "learning_rate/head": 2.0}
    scaled = aim("here", "learning_rate", scale={"head": 1.0, "body": 0.125}).hit(opt_state, 2.0)
    assert columns(scaled, "learning_rate") == {"learning_rate/body": 0.25, "learning_rate/head": 2.0}
    assert aim("here", "weight_decay", scale={"body": 0.5}).hit(opt_state, 1.0) == aim(
        "here", "weight_decay", "body"
    ).hit(opt_state, 0.5)


def test_an_aim_tells_the_columns_that_it_sets() -> None:
    opt_state = TWO.init(PARAMS)
    assert aim("here", "learning_rate", "head").columns(opt_state) == {"learning_rate/head": 0.5}
    assert set(aim("here", "learning_rate", scale={"head": 1, "body": 1}).columns(opt_state)) == {
        "learning_rate/body",
        "learning_rate/head",
    }
    assert aim("here", "weight_decay").columns(opt_state) == {"weight_decay": 0.125}


def test_equal_aims_are_equal_in_whatever_order_the_groups_come() -> None:
    one = aim("here", "learning_rate", scale={"head": 1, "body": np.float32(0.5)})
    assert one == aim("here", "learning_rate", scale={"body": 0.5, "head": 1.0})
    assert hash(one) == hash(aim("here", "learning_rate", scale={"body": 0.5, "head": 1.0}))
    assert one.where == "here(scale={'body': 0.5, 'head': 1.0})"


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        (
            {"head": 1.0},
            r"here.*: `scale` must have a factor for each .* 'body', 'head', and leaves out 'body'\. Add it",
        ),
        ({"head": 1.0, "body": 1.0, "tail": 1.0}, r"no group 'tail' .* there are 'body', 'head'"),
        ({"head": 1.0, "body": 1.0, "rest": 0.0}, r"no group 'rest' .* there are 'body', 'head'"),
    ],
)
def test_factors_must_fit_the_groups(scale: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        aim("here", "learning_rate", scale=scale).hit(TWO.init(PARAMS), 0.5)


def test_one_value_for_several_groups_is_refused_with_both_ways_to_say_what_is_meant() -> None:
    with pytest.raises(ValueError, match=r"as by group='body'; or .* by scale={'body': 1\.0, 'head': 1\.0}\.$"):
        aim("here", "learning_rate").hit(TWO.init(PARAMS), 0.5)
    with pytest.raises(ValueError, match=r"the optimizer exposes no 'momentum', only b1"):
        aim("here", "momentum", scale={"head": 1.0}).hit(TWO.init(PARAMS), 0.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"group": "head", "scale": {"head": 1.0}}, r"here: give `group` for one group, or `scale` for all, not both"),
        ({"group": 1}, r"here: `group` must be the name of a group of the optimizer, got 1\. Write 'head'\.$"),
        ({"group": ""}, r"here: `group` must be the name"),
        ({"scale": [1.0, 0.1]}, r"here: `scale` must be a factor for each group by its name, got \[1\.0, 0\.1\]\."),
        ({"scale": {}}, r"here: `scale` must be a factor for each group"),
        ({"scale": {0: 1.0}}, r"here: `scale` must be a factor for each group"),
        *(
            ({"scale": {"head": factor}}, r"the factor of the group 'head' in `scale` must be a finite number of")
            for factor in (-1.0, float("nan"), float("inf"), True, "1.0x", None)
        ),
    ],
)  # fmt: skip
def test_what_aims_at_no_group_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        aim("here", "learning_rate", **arguments)


def test_aiming_starts_no_computation() -> None:
    with counted_compiles() as counts:
        assert aim("here", "learning_rate", scale={"head": 1.0, "body": 0.1}) != Aim("here", "learning_rate")
    assert counts == {}
