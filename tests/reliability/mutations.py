"""What a resume could lose, one thing at a time: a guard of the oracle, which must see each.

A script, run as a child once the cases were recorded.
"""

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import numpy as np

from jaxloop.engine import setup
from jaxloop.engine.session import Session
from jaxloop.events import TRAINING, VALIDATION
from jaxloop.feeding.source import EpochSource
from tests.reliability import oracle
from tests.reliability.cases import Cancel, Case, Fits

#: From the session that begins and the one that was resumed to one that has lost something.
Change = Callable[[Session, Session], Session]

_IN_TRAINING = "epoch 2 of 3, training batch 3 of 7"
_TOLD = "epoch 2 of 3, training batch 6 of 7"
_IN_VALIDATION = "epoch 2 of 3, validation batch 3 of 4"
_BETWEEN = "after epoch 2 of 3"

_CALLBACKS = ("clip", "schedule", "ema", "early_stopping", "plateau", "counts", "csv", "tensorboard")
CASES = {
    "whole": Case(steps=3, validation=4, callbacks=_CALLBACKS),
    "observed": Case(
        steps=3, model="plain", callbacks=("csv",), cancels=(Cancel("observer", "VALIDATION", epoch=2, batch=0),)
    ),
    "cancelled": Case(
        steps=3, model="plain", callbacks=("csv",), cancels=(Cancel("compiled", "VALIDATION", epoch=2, batch=0),)
    ),
    "in turn": Case(steps=3, model="plain", callbacks=("csv",), data="stream"),
}


@dataclass(frozen=True)
class Mutation:
    """Something that is lost.

    Attributes:
      change: loses it.
      expected: what the differences must name, or what the resume fails with: each is the beginning of a line.
      equal: what must be equal still: no line begins with it.
      at: the place, in words.
      case: the name of the run.
    """

    change: Change
    expected: tuple[str, ...]
    equal: tuple[str, ...] = ()
    at: str = _IN_TRAINING
    case: str = "whole"


def _without(**changes: Callable[[Session, Session], Any]) -> Change:
    """The loop with the fields that are given by the two sessions."""

    def change(begun: Session, after: Session) -> Session:
        return replace(after, loop=after.loop.replace(**{name: make(begun, after) for name, make in changes.items()}))

    return change


def _begun_again(*names: str) -> Change:
    """The loop with these fields as they were when the fit began."""

    def made(name: str) -> Callable[[Session, Session], Any]:
        return lambda begun, after: getattr(begun.loop, name)

    return _without(**{name: made(name) for name in names})


def _forgotten(name: str) -> Change:
    """The loop with what one callback remembers as zeros."""

    def forgotten(begun: Session, after: Session) -> Any:
        memory = after.loop.callback_state
        return memory | {name: jax.tree.map(_zeros, memory[name])}

    return _without(callback_state=forgotten)


def _zeros(leaf: Any) -> Any:
    if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return leaf
    return jax.numpy.zeros_like(leaf) if isinstance(leaf, jax.Array) else np.zeros_like(leaf)[()]


def _placed(**changes: Callable[[Any], Any]) -> Change:
    """The place with the fields that are given by the place."""

    def change(begun: Session, after: Session) -> Session:
        place = after.place
        assert place is not None
        return replace(after, place=replace(place, **{name: make(place) for name, make in changes.items()}))

    return change


def _stateless(name: str) -> Change:
    return _placed(states=lambda place: {key: value for key, value in place.states.items() if key != name})


def _without_history(place: Any) -> Any:
    """The states with a history that has no rows."""
    history = place.states["History"]
    return place.states | {"History": history | {"journals": dict.fromkeys(history["journals"], 0)}}


_LOGS = ("/csv", "/trace", "/points")
MUTATIONS: Mapping[str, Mutation] = {
    "nothing": Mutation(lambda begun, after: after, ()),
    "rows in flight": Mutation(_placed(rows=lambda place: ()), (*_LOGS, "/history/batches"), ("/loop",)),
    "rows in flight, in validation": Mutation(
        _placed(rows=lambda place: ()), ("/csv", "/trace"), ("/loop", "/history"), at=_IN_VALIDATION
    ),
    "requests": Mutation(_placed(requests=lambda place: 0), ("/csv", "/trace"), at=_TOLD, case="observed"),
    "what is cancelled": Mutation(_begun_again("stop"), ("/csv", "/trace"), case="cancelled"),
    "metrics": Mutation(
        _begun_again("metrics"), ("/csv", "/history/epochs/loss"), ("/loop/.model", "/loop/.opt_state")
    ),
    "metrics, in validation": Mutation(
        _begun_again("metrics"),
        ("/csv", "/history/epochs/validation_loss", "/points/fit 0/validation/epoch/loss"),
        ("/loop/.model", "/loop/.opt_state"),
        at=_IN_VALIDATION,
    ),
    "statistics": Mutation(_begun_again("stats"), ("/history/epochs/loss",), ("/loop/.model",), at=_IN_VALIDATION),
    "key": Mutation(_without(key=lambda begun, after: jax.random.key(99)), ("/loop/.key",)),
    "parameters": Mutation(
        _without(model=lambda begun, after: after.loop.model.replace(params=begun.loop.model.params)),
        ("/loop/.model.params",),
    ),
    "batch statistics and random streams": Mutation(
        _without(model=lambda begun, after: after.loop.model.replace(state=begun.loop.model.state)),
        ("/loop/.model.state",),
    ),
    "optimizer state": Mutation(_begun_again("opt_state"), ("/loop/.opt_state",)),
    "ema": Mutation(_forgotten("ema"), ("/loop/.callback_state['ema']",), ("/loop/.opt_state",)),
    "early stopping": Mutation(_forgotten("early_stopping"), ("/loop/.callback_state['early_stopping']",), at=_BETWEEN),
    "plateau": Mutation(_forgotten("reduce_on_plateau"), ("/loop/.callback_state['reduce_on_plateau']",), at=_BETWEEN),
    "what lasts": Mutation(_forgotten("counted"), ("/loop/.callback_state['counted']", "/csv"), ("/loop/.model",)),
    "what is told to last": Mutation(_begun_again("lasting"), ("/static/lasting",), ("/loop",)),
    "what evaluation depends on": Mutation(_begun_again("evaluated"), ("failed: ValueError: pytree structure",)),
    "epoch": Mutation(
        _without(epoch=lambda begun, after: after.loop.epoch - 1),
        ("failed: StateMismatchError: training: the checkpoint's run had other samples",),
    ),
    "place of the epoch": Mutation(_begun_again("epoch_index"), ("/csv", "/history/epochs"), at=_BETWEEN),
    "step": Mutation(_begun_again("step"), ("/loop/.step", "/csv")),
    "place of the fit": Mutation(
        _without(first_step=lambda begun, after: after.loop.step), ("/loop/.first_step", "/loop/.opt_state")
    ),
    "batch index": Mutation(_begun_again("batch_index"), ("/csv", "/history/batches/batch")),
    "position of the data": Mutation(_placed(position=lambda place: 0), ("/csv", "/loop/.step")),
    "how many steps a dispatch takes": Mutation(
        _placed(fused=lambda place: dict.fromkeys((TRAINING, VALIDATION), 2)),
        ("failed: StateMismatchError: fit: the run took 2 steps",),
    ),
    "names of the rows": Mutation(
        _placed(names=lambda place: [*place.names[1:], "other"]), ("failed: StateMismatchError: fit: a row of the run",)
    ),
    "state of the CSV": Mutation(_stateless("CSVLogger"), ("/csv",), ("/loop", "/history", "/points", "/trace")),
    "state of TensorBoard": Mutation(_stateless("TensorBoardLogger"), ("/points",), ("/loop", "/history", "/csv")),
    "state of the trace": Mutation(_stateless("Trace"), ("/trace",), ("/loop", "/history", "/csv", "/points")),
    "state of the history": Mutation(_stateless("History"), ("failed: KeyError: 'History'",)),
    "journals": Mutation(_placed(journals=lambda place: dict.fromkeys(place.journals, b"")), ("failed: Corrupt",)),
    "rows of the history": Mutation(
        _placed(states=_without_history), ("/history/batches", "/history/epochs"), ("/loop", "/csv", "/trace")
    ),
    "marks": Mutation(_placed(marks=lambda place: {}), ("failed: KeyError: 'training'",), case="in turn"),
    "place of the data": Mutation(lambda begun, after: after, ("failed: TypeError: '_StreamEpoch'",), case="in turn"),
}


@contextlib.contextmanager
def _lost(name: str) -> Iterator[None]:
    """Resumes lose something from here on."""
    with contextlib.ExitStack() as stack:
        before, change = setup.resumed, MUTATIONS[name].change
        lossy = lambda session, directory: change(session, before(session, directory))  # noqa: E731 it is patched in
        stack.enter_context(mock.patch.object(setup, "resumed", lossy))
        if name == "place of the data":
            stack.enter_context(mock.patch.object(EpochSource, "put_back"))
        yield


def found(folder: Path, fits: Mapping[str, Fits], places: Mapping[str, list[str]], name: str) -> list[str]:
    """What the oracle finds if something is lost; what the resume raises is a line of its own."""
    mutation = MUTATIONS[name]
    (number,) = [n for n, place in enumerate(places[mutation.case]) if place.startswith(mutation.at)]
    copies = sorted((folder / mutation.case / "copies").iterdir())
    try:
        with _lost(name):
            return oracle.resumed(fits[mutation.case], folder / mutation.case, copies[number], copies[-1])
    except Exception as error:
        return [f"failed: {type(error).__name__}: {error}"]


def main() -> None:
    """Loses one thing after the other, and writes down what the oracle finds."""
    folder = Path(sys.argv[1])
    recorded = json.loads((folder / "record.json").read_text())
    places = {name: result["places"] for name, result in recorded.items()}
    fits = {name: Fits(case) for name, case in CASES.items()}
    lines = {name: found(folder, fits, places, name) for name in MUTATIONS}
    (folder / "mutations.json").write_text(json.dumps(lines, indent=1))


if __name__ == "__main__":
    main()
