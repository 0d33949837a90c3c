"""What must be the same on every process: what is compared, and that one process compares nothing."""

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxloop as jl
from jaxloop.engine import sameness as module
from jaxloop.engine.sameness import check_same_program, check_same_run, check_same_start, said
from jaxloop.placement import Placement
from tests import small


class Told:
    """Stands for an agreement: keeps what is compared, and refuses it if that is wanted."""

    def __init__(self) -> None:
        self.values: list[dict[str, Any]] = []
        self.refuses = False

    def __call__(self, placement: Any) -> "Told":
        return self

    def same(self, where: str, values: dict[str, Any]) -> None:
        self.values.append(values)
        if self.refuses:
            raise ValueError(where)


@pytest.fixture
def told(monkeypatch) -> Told:
    found = Told()
    monkeypatch.setattr(module, "Agreement", found)
    return found


ONE = Placement(jax.devices()[0])
SEVERAL: Any = SimpleNamespace(several_processes=True)


def test_one_process_compares_nothing(told) -> None:
    check_same_run(ONE, "fit", {"seed": 1}, [])
    check_same_start(ONE, "model", small.model())
    check_same_program(ONE, SimpleNamespace(name="step"))
    assert told.values == []


def test_of_a_run_its_identity_and_what_its_feeds_say_are_compared(told) -> None:
    feeds: Any = [SimpleNamespace(agreement=lambda: {"training: a batch": "x"}), SimpleNamespace(agreement=dict)]
    check_same_run(SEVERAL, "fit", {"seed": 1}, feeds)
    assert told.values == [{"seed": 1, "training: a batch": "x"}]


def digests(told: Told, start: Any) -> dict[str, Any]:
    check_same_start(SEVERAL, "model", start)
    return told.values[-1]


@pytest.mark.parametrize("leaf", [np.arange(4.0), jnp.arange(4), np.float32(3), 3, np.zeros((0, 2)), jax.random.key(1)])
def test_a_leaf_has_the_digest_of_its_numbers(told, leaf) -> None:
    found = digests(told, {"leaf": leaf})
    assert list(found) == ["what it begins with", "model['leaf']"]
    assert found["what it begins with"] == "a model"
    assert digests(told, {"leaf": leaf}) == found


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (np.zeros(4), np.array([0, 0, 0, 1e-30])),
        (np.zeros(4), np.zeros((2, 2))),
        (np.zeros(4, np.float32), np.zeros(4, np.int32)),
        (np.array([0.0]), np.array([-0.0])),
        (jax.random.key(1), jax.random.key(2)),
        (1, 2),
    ],
)
def test_leaves_that_differ_have_other_digests(told, one, other) -> None:
    assert digests(told, [one])["model[0]"] != digests(told, [other])["model[0]"]


def test_an_array_in_another_order_of_axes_in_memory_is_the_same(told) -> None:
    array = np.arange(6.0).reshape(2, 3)
    assert digests(told, [array]) == digests(told, [np.asfortranarray(array)])


def test_a_program_that_differs_is_compared_again_by_the_next_run(told) -> None:
    program: Any = SimpleNamespace(name="training_step", digest=7, compile_seconds=1.0)
    check_same_program(SEVERAL, program)
    assert list(told.values[0].values()) == [7]
    assert program.compile_seconds == 1.0
    told.refuses = True
    with pytest.raises(ValueError, match="fit"):
        check_same_program(SEVERAL, program)
    assert program.compile_seconds is None


def test_host_callbacks_say_where_processes_wait_for_each_other(tmp_path) -> None:
    @jl.on_host(jl.Event.UPDATE_START, jl.Event.EPOCH_END, reads="loop")
    def watch(loop: Any, event: jl.Event) -> None:
        pass

    checkpoint = jl.callbacks.Checkpoint(tmp_path, every=3, best="validation_loss")
    assert said([watch, checkpoint]) == [
        "test_host_callbacks_say_where_processes_wait_for_each_other.watch at EPOCH_END (loop), UPDATE_START (loop)",
        "Checkpoint every 3, best ('validation_loss', 'min')",
    ]
