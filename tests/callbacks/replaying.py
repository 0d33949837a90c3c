"""What a fit tells host callbacks, written down once, and told again by hand: in parts, with a kill between them."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

import jaxloop as jl
from jaxloop.events import Event, Plan
from jaxloop.views import Columns, LoopView
from tests import small

Told = tuple[Event, LoopView] | Columns
_READ = ("step", "epoch", "epoch_index", "epoch_count", "batch_index", "batch_count", "phase", "stop", "validation_set")


def odd_numbers(loop: jl.Loop, event: Event) -> jl.Loop:
    """Records an integer, a statistic that diverges at times, and one that only the second epoch measures."""
    if event is Event.UPDATE_START:
        loop = loop.record("count", 2**24 + 1 + loop.step)
        return loop.record("diverged", jnp.where(loop.step % 3 == 1, jnp.nan, 0.1 * loop.step))
    if event is Event.EPOCH_END:
        kept = loop.stats.get("late", np.float32(0))
        return loop.record("late", jnp.where(loop.epoch_index == 1, 0.5, kept))
    return loop


class _Writer:
    """A host callback that writes down all that the built-in ones may be told."""

    host_declaration = jl.callback.HostDeclaration(
        frozenset(event for event in Event if not event.in_step) | {Event.BATCH_END}, "stats"
    )

    def __init__(self) -> None:
        self.told: list[Told] = []
        self.plan = Plan(1, 1)

    def bind(self, plan: Plan) -> "_Writer":
        self.plan = plan
        return self

    def __call__(self, loop: LoopView, event: Event) -> None:
        values = {name: getattr(loop, name) for name in _READ} | {"stats": dict(loop.stats)}
        self.told.append((event, LoopView(values, reads="stats", name="replayed", cancel=lambda scope: None)))

    def rows(self, columns: Columns) -> None:
        self.told.append(columns.with_bits(columns.bits()))


def written_down(*, epochs: int = 2, model_or_loop: Any = None, **changes: Any) -> tuple[Plan, list[Told], jl.Loop]:
    """The plan of a small fit, all that its host callbacks were told, in order, and the loop it gave."""
    writer = _Writer()
    training_loop = small.training_loop(callbacks=[odd_numbers, writer], **changes)
    loop, _ = training_loop.fit(small.model() if model_or_loop is None else model_or_loop, epochs)
    return writer.plan, writer.told, loop


def tell(callback: Any, told: Sequence[Told]) -> None:
    """Tells a bound callback, as the engine does."""
    for one in told:
        if isinstance(one, Columns):
            callback.rows(one)
        elif one[0] in callback.host_declaration.events:
            callback(one[1], one[0])


def saved(callback: Any) -> Any:
    """The state of a callback, after JSON of the strict kind has held it."""
    return json.loads(json.dumps(callback.state(), allow_nan=False, sort_keys=True))


def view_after(told: Sequence[Told]) -> LoopView:
    """The loop that was shown last."""
    return next(one[1] for one in reversed(told) if not isinstance(one, Columns))


def killed_and_resumed(
    make: Callable[[], Any], told: Sequence[Told], save: int, kill: int, die: Callable[[Any], None]
) -> Any:
    """A callback that is saved after `save` of what is told, killed after `kill`, and resumed; it is told the rest.

    Args:
      make: makes a bound callback.
      told: as `written_down` gives it.
      save: at least 1, since FIT_START comes before any checkpoint.
      kill: at least `save`.
      die: does to a callback what the end of its process does.
    """
    first = make()
    tell(first, told[:save])
    state = saved(first)
    tell(first, told[save:kill])
    die(first)
    second = make()
    second.resume(view_after(told[:save]), state)
    tell(second, told[save:])
    return second
