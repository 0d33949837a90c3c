"""What must be the same on every process of a run, compared once: else they diverge in silence, or wait for ever."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# JAX leaves types open here; all else is checked strictly.

from collections.abc import Iterable, Mapping
from typing import Any

import jax

from jaxloop.callback import name_of
from jaxloop.callbacks.checkpoint import Checkpoint
from jaxloop.engine.agreement import Agreement
from jaxloop.feeding.checksums import first_batch_mark
from jaxloop.feeding.feed import Feed
from jaxloop.placement import Placement
from jaxloop.programs.programs import Program


def check_same_run(placement: Placement, where: str, identity: Mapping[str, Any], feeds: Iterable[Feed]) -> None:
    """Refuses a run that is not the same on every process. Waits for all of them, if there are several.

    Args:
      placement: where the run lives.
      where: what is begun, for messages.
      identity: what makes it the same run, for JSON.
      feeds: of its phases.

    Raises:
      ValueError: on every process, with the name of what differs.
    """
    if placement.several_processes:
        of_feeds = {name: text for feed in feeds for name, text in feed.agreement().items()}
        Agreement(placement).same(where, {**identity, **of_feeds})


def said(callbacks: Iterable[Any]) -> list[str]:
    """What processes must agree on of their host callbacks: at which events they wait for each other."""
    found: list[str] = []
    for callback in callbacks:
        declaration = callback.host_declaration
        events = sorted(f"{event.name} ({declaration.reads_at(event)})" for event in declaration.events)
        every = f" every {callback.every!r}, best {callback.best!r}" if isinstance(callback, Checkpoint) else ""
        found.append(f"{name_of(callback)}{every}{' at ' * bool(events)}{', '.join(events)}")
    return found


def check_same_start(placement: Placement, name: str, start: Any) -> None:
    """Refuses a start that is not the same on every process, as far as each has made it for itself.

    Args:
      placement: where the run lives.
      name: what the start is, such as a model or a loop.
      start: PyTree of arrays.
    """
    if placement.several_processes:
        leaves = [(path, leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(start) if _is_local(leaf)]
        digests = {f"{name}{jax.tree_util.keystr(path)}": first_batch_mark(leaf) for path, leaf in leaves}
        Agreement(placement).same("fit", {"what it begins with": f"a {name}", **digests})


def check_same_program(placement: Placement, program: Program) -> None:
    """Refuses a program that was compiled just now, if each process has another: they would diverge in silence."""
    if placement.several_processes:
        what = f"the program {program.name}, with all numbers that code has put into it, such as a learning rate,"
        try:
            Agreement(placement).same("fit", {what: program.digest})
        except Exception:
            program.compile_seconds = None  # else the next run would take it unseen
            raise


def _is_local(leaf: Any) -> bool:
    return not isinstance(leaf, jax.Array) or leaf.is_fully_addressable
