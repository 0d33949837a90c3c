"""What makes a run the same run if it is begun again, or begun by several processes."""

import json
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxloop.callback import name_of
from jaxloop.engine.session import Session
from jaxloop.events import VALIDATION, Split
from jaxloop.feeding.feed import Feed
from jaxloop.feeding.identity import first_batch_mark, identity_of
from jaxloop.feeding.source import can_begin_at


def identity_of_run(
    session: Session,
    training: Any,
    validation: Mapping[Split, Any],
    feed: Feed,
    first: Callable[[], Any],
    *,
    limit: int | None,
    seed: int | None,
) -> dict[str, Any]:
    """What a run must have in common with a checkpoint to go on from it, besides the form of its loop. It is JSON.

    Args:
      session: of the run, before it begins.
      training: the data, as the training loop was given them.
      validation: the same, of each set.
      feed: of training.
      first: gives the first batch of training. It is asked for only if the data cannot be told by anything else.
      limit: the most batches in a phase; None if there is no limit.
      seed: that the run was given; None if a loop brings its key.
    """
    plan, loop, spec = session.plan, session.loop, session.spec
    data = identity_of(training)
    if not can_begin_at(feed.batches.batches) and not feed.is_foreign:  # which data come next, only they can tell
        data = data | {"first_batch": first_batch_mark(first())}
    identity = {
        "seed": seed,
        "epochs": plan.epoch_count,
        "steps_per_epoch": plan.batch_count,
        "total_steps": plan.total_steps,
        "report": plan.report,
        "metrics": list(plan.metrics),
        "steps_per_dispatch": session.steps_per_dispatch,
        "accumulate": int(spec.accumulate),
        "compute_dtype": None if spec.compute_dtype is None else spec.compute_dtype.name,
        "limit_batches": limit,
        "validate_at_start": session.validates_first,
        "validation_sets": _in_order(plan.validation_sets),
        "first_step": int(loop.step),
        "first_epoch": int(loop.epoch),
        "callbacks": list(map(name_of, session.callbacks.compiled)),
        "batch": [f"{dtype}{list(shape)}" for shape, dtype in feed.agreed.first.kinds],
        "training": data,
        "validation": _of_sets({split.name: identity_of(batches) for split, batches in validation.items()}),
    }
    return json.loads(json.dumps(identity, default=operator.index))  # numbers may be NumPy's


def _in_order(names: Sequence[str]) -> list[str] | None:
    """The names of the sets of validation; None for one without a name. To go on in one takes those after it."""
    return None if tuple(names) == (VALIDATION.name,) else list(names)


def _of_sets(identities: dict[str, Any]) -> Any:
    """What is validated on, by the name of the set if it has one."""
    return identities if identities.keys() - {VALIDATION.name} else identities.get(VALIDATION.name)
