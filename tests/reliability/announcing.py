"""What a child with a fit announces: events, rows, boundaries, and calls of whatever is asked for."""

import functools
import importlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import jaxloop as jl
from jaxloop.engine import run
from jaxloop.events import Phase
from tests.reliability.pipes import announce


@contextmanager
def around(point: str) -> Iterator[None]:
    """Announces `<point> begun` and `<point> over`; the latter not if it raises."""
    announce(f"{point} begun")
    yield
    announce(f"{point} over")


def announce_calls(place: str, point: str) -> None:
    """From now on each call of a function or method is `around` a point.

    Args:
      place: such as `os:replace` or `package.module:Class.method`. It is replaced there, so the place must be that from
        which it is called: a module that has imported a name keeps what it has.
      point: what is announced.
    """
    module, path = place.split(":")
    *owners, name = path.split(".")
    holder = functools.reduce(getattr, owners, importlib.import_module(module))
    function = getattr(holder, name)

    @functools.wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        with around(point):
            return function(*arguments, **options)

    setattr(holder, name, call)


def announce_boundaries() -> None:
    """From now on each dispatch announces itself at the boundary after it.

    The points are `step 5` (the training step of the loop's life, counted from 1) and `validation 2 of epoch 1` (the
    batch, counted from 1, and the epoch of the loop's life, counted from 1). A dispatch of several steps announces its
    last one. The step was sent by then. Its row may be in flight.
    """
    for name in ("dispatched", "taken_apart"):
        setattr(run, name, _announced(getattr(run, name)))


def _announced(driver: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(driver)
    def drive(steps: Any, host: Any, progress: Any, tell: Any, loop: Any, place: Any = None) -> Any:
        start = 0 if place is None else place.position
        taken, epoch = int(loop.step) - start, int(loop.epoch)
        with closing(driver(steps, host, progress, tell, loop, place)) as boundaries:
            yield next(boundaries)
            for boundary in boundaries:
                training = steps.phase is Phase.TRAINING
                at = boundary.position
                announce(f"step {taken + at}" if training else f"validation {at} of epoch {epoch}")
                yield boundary

    return drive


_EVENTS = (*(event for event in jl.Event if not event.in_step), jl.Event.BATCH_END)


@jl.on_host(*_EVENTS)
class Announcer:
    """A host callback that announces events, rows and compiled programs.

    The points are `FIT_START`, `EPOCH_START 1` (the epoch of the loop's life, counted from 1), `row 5` (of the training
    step, as in `announce_boundaries`), `validation row 2 of epoch 1`, and `compiled training_step`.
    """

    def __call__(self, loop: Any, event: jl.Event) -> None:
        of_fit = event in (jl.Event.FIT_START, jl.Event.FIT_END)
        announce(event.name if of_fit else f"{event.name} {int(loop.epoch)}")

    def rows(self, columns: Any) -> None:
        for index in range(columns.count):
            if columns.phase is Phase.TRAINING:
                announce(f"row {columns['step'][index] + 1}")
            else:
                announce(f"validation row {columns['batch_index'][index] + 1} of epoch {columns['epoch'][index]}")

    def notice(self, text: str, seconds: float = 0.0) -> None:
        if text.startswith("Compiled "):
            announce(f"compiled {text.split()[1]}")

    def resume(self, loop: Any, state: dict[str, Any]) -> None:
        announce("resumed")

    def state(self) -> dict[str, Any]:
        return {}
