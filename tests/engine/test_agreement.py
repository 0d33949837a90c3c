"""What processes decide together: nothing is exchanged by one, and several hear the same at the same place."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from jaxloop.asking import Ask
from jaxloop.engine import agreement as module
from jaxloop.engine.agreement import Agreement, known_everywhere
from jaxloop.errors import CheckpointError, CorruptCheckpointError
from jaxloop.events import Scope
from jaxloop.placement import Placement


class Processes:
    """Threads that stand for processes: a gather waits until each has given its part, of one shape and dtype."""

    def __init__(self, count: int, monkeypatch: pytest.MonkeyPatch):
        self.count, self.gathers = count, 0
        self._local, self._parts = threading.local(), [None] * count
        self._barrier = threading.Barrier(count, timeout=5)
        monkeypatch.setattr(module, "multihost_utils", SimpleNamespace(process_allgather=self._gather))

    def _gather(self, part: Any) -> np.ndarray:
        self._parts[self._local.index] = np.asarray(part)
        self._barrier.wait()
        assert len({(each.shape, each.dtype) for each in self._parts}) == 1, "a gather of different arrays"
        found = np.stack(self._parts)
        if self._barrier.wait() == 0:
            self.gathers += 1
        return found

    def run(self, work: Callable[[int, Agreement], Any]) -> list[Any]:
        """What `work` gives, or raises, on each process."""
        found: list[Any] = [None] * self.count

        def one(index: int) -> None:
            self._local.index = index
            agreement = Agreement()
            agreement.several, agreement._placement = True, Placement(jax.devices()[0])
            try:
                found[index] = work(index, agreement)
            except Exception as error:
                found[index] = error

        threads = [threading.Thread(target=one, args=(index,), daemon=True) for index in range(self.count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive()
        return found


@pytest.fixture
def processes(monkeypatch) -> Processes:
    return Processes(3, monkeypatch)


@pytest.fixture
def nothing_is_exchanged(monkeypatch) -> None:
    def fail(part: Any) -> None:
        raise AssertionError("one process exchanges nothing")

    monkeypatch.setattr(module, "multihost_utils", SimpleNamespace(process_allgather=fail))


@pytest.mark.usefixtures("nothing_is_exchanged")
@pytest.mark.parametrize("placement", [None, Placement(jax.devices()[0])])
def test_one_process_has_its_own_answers(placement, loop) -> None:
    agreement = Agreement(placement)
    assert not agreement.several
    assert agreement.all_of(5) == 5
    assert agreement.stopped(loop) is loop
    assert agreement.texts("mine") == ["mine"]
    agreement.same("fit", {"seed": 1})
    with agreement.together():
        pass
    with pytest.raises(KeyError) as raised, agreement.together():
        raise KeyError("mine")
    assert not known_everywhere(raised.value)


def test_all_processes_hear_what_any_asks_for(processes) -> None:
    assert processes.run(lambda index, agreement: agreement.all_of([1, 0, 64][index])) == [65] * 3
    assert processes.gathers == 1


def test_what_any_process_has_cancelled_is_in_the_loop_of_each(processes, loop) -> None:
    def stopped(index: int, agreement: Agreement) -> Any:
        host = agreement.stopped(loop.replace(stop=np.int32([0, Scope.FIT, Scope.BATCH][index]))).stop
        device = agreement.stopped(loop.replace(stop=jax.numpy.int32([0, 0, Scope.EPOCH][index]))).stop
        return int(host), isinstance(host, jax.Array), int(device), isinstance(device, jax.Array)

    assert processes.run(stopped) == [(Scope.FIT | Scope.BATCH, False, int(Scope.EPOCH), True)] * 3


def test_texts_of_any_length_come_in_the_order_of_the_processes(processes) -> None:
    texts = ["", "an Umlaut: ü", "x" * 1000]
    assert processes.run(lambda index, agreement: agreement.texts(texts[index])) == [texts] * 3


def test_a_value_that_differs_is_an_error_on_every_process(processes) -> None:
    def same(index: int, agreement: Agreement) -> None:
        agreement.same("fit", {"seed": 1, f"only of {index}": index, "epochs": 2 + (index == 2), "later": index})

    found = processes.run(same)
    for error in found:
        assert isinstance(error, ValueError)
        assert known_everywhere(error)
        assert str(error).startswith(
            "fit: epochs must be the same on every process: process 0 has 2; process 1 has 2; process 2 has 3. Give"
        )


def test_one_and_true_and_floats_of_one_value_are_told_apart(processes) -> None:
    found = processes.run(lambda index, agreement: agreement.same("fit", {"a": [1, True, 1.0][index]}))
    assert all(isinstance(error, ValueError) for error in found)


def test_what_goes_well_on_all_goes_on(processes) -> None:
    def work(index: int, agreement: Agreement) -> int:
        with agreement.together():
            agreement.same("fit", {"seed": 1})
            return index

    assert processes.run(work) == [0, 1, 2]


@pytest.mark.parametrize(
    ("raised", "elsewhere"),
    [
        (CorruptCheckpointError, CorruptCheckpointError),
        (CheckpointError, CheckpointError),
        (ValueError, ValueError),
        (OSError, RuntimeError),
    ],
)
@pytest.mark.parametrize("waiting", ["at the end", "in an exchange", "one inside of another"])
def test_what_one_process_raises_the_others_raise_too(processes, raised, elsewhere, waiting) -> None:
    raised = raised("what is wrong")

    def work(index: int, agreement: Agreement) -> str:
        with agreement.together():
            if waiting == "one inside of another":
                with agreement.together():
                    if index == 1:
                        raise raised
            if index == 1:
                raise raised
            if waiting == "in an exchange":
                agreement.texts("others wait")
        return agreement.texts("none comes here")[0]

    first, second, third = processes.run(work)
    assert second is raised
    for error in (first, third):
        assert type(error) is elsewhere
        assert str(error) == str(raised)
        assert error.__notes__ == [
            f"jaxloop: process 1 has raised this {type(raised).__name__}, so this process stops too"
        ]
    assert all(known_everywhere(error) for error in (first, second, third))
    assert processes.run(lambda index, agreement: agreement.all_of(index)) == [3] * 3, "they are in step again"


def test_where_all_raise_each_raises_its_own(processes) -> None:
    def work(index: int, agreement: Agreement) -> None:
        with agreement.together():
            raise KeyError(index)

    assert [error.args for error in processes.run(work)] == [(0,), (1,), (2,)]


def row(asked: int, counted: int = 1) -> np.ndarray:
    return np.array([asked << 1 | counted, 0], np.int32)


@contextmanager
def sending(monkeypatch: pytest.MonkeyPatch, sent: list[int]) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setattr(module, "argument", lambda placement, asked: sent.append(asked))
        yield


def test_what_rows_tell_is_heard_until_it_is_forgotten(monkeypatch) -> None:
    agreement, sent = Agreement(Placement(jax.devices()[0])), []
    with sending(monkeypatch, sent):
        for asked in (Scope.EPOCH, 0):
            agreement.sent(int(asked))
    assert sent == [Scope.EPOCH, 0]
    assert agreement.told(row(Scope.EPOCH)) == Scope.EPOCH
    assert agreement.told(row(Ask.TERMINATE, counted=0)) == Ask.TERMINATE
    assert agreement.heard == Scope.EPOCH | Ask.TERMINATE
    agreement.begin_phase()
    assert agreement.heard == 0


def test_a_save_answers_what_was_sent_before_it_and_nothing_later(monkeypatch) -> None:
    agreement = Agreement(Placement(jax.devices()[0]))
    with sending(monkeypatch, []):
        agreement.sent(Ask.SAVE)
        agreement.sent(Ask.SAVE)
        assert agreement.told(row(Ask.SAVE)) == Ask.SAVE
        assert agreement.heard == Ask.SAVE
        agreement.saved()
        assert agreement.heard == 0
        assert agreement.told(row(Ask.SAVE | Ask.INTERRUPT)) == Ask.INTERRUPT, "it was on its way"
        agreement.sent(Ask.SAVE)
        assert agreement.told(row(Ask.SAVE)) == Ask.SAVE
        assert agreement.heard == Ask.SAVE | Ask.INTERRUPT


def test_a_mesh_without_a_device_of_some_process_is_refused(monkeypatch) -> None:
    placement = Placement(jax.devices()[0])
    monkeypatch.setattr(Placement, "several_processes", True)
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    with pytest.raises(ValueError, match=r"on: the mesh has devices of the processes \[0\], but there are 3\. Take"):
        Agreement(placement)
