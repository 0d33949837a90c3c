"""Predictions: the model's outputs for all examples, without those for the copies that fill up the last batch."""

from typing import Any

import jax
import numpy as np

from jaxloop.engine.leaving import leaving
from jaxloop.engine.session import Session
from jaxloop.feeding.specification import Batch, rows_of
from jaxloop.loop import Loop
from jaxloop.programs.programs import Program
from jaxloop.step import output_of


def predicted(session: Session, *, fresh: bool) -> Any:
    """The outputs of all batches, one after the other, in NumPy.

    Each is fetched while the device is at work on the next, so that it never holds more than two.

    Args:
      session: of a prediction.
      fresh: as `output_of` takes it.

    Raises:
      ValueError: the output is not one per example.
    """
    feed, spec, placement = session.feeds.only, session.spec, session.placement
    prepare = None if feed.preparation is None else feed.preparation.prepare

    def output(loop: Loop, batch: Batch, resident: Any) -> Any:
        batch = batch if prepare is None else prepare(resident, batch)
        return output_of(spec, loop, batch, fresh=fresh)

    key = ("predict", spec, fresh, prepare, placement)
    program = session.programs.get(key, lambda: Program("predict", output, out_shardings=placement.sharding))
    outputs: list[Any] = []
    ahead: tuple[slice | np.ndarray, Any] | None = None

    def fetch(rows: slice | np.ndarray, output: Any) -> None:
        # Copies, since on a CPU NumPy's view of an array keeps that.
        outputs.append(jax.tree.map(lambda leaf: np.array(leaf[rows]), placement.fetch(output)))

    with leaving(placement.several_processes):
        for rows, batch in feed.singles():
            if ahead is None:
                _check(jax.eval_shape(program.jitted, session.loop, batch, feed.resident), rows_of(batch[:2]))
                ahead = rows, program(session.loop, batch, feed.resident)
                continue
            sent = rows, program(session.loop, batch, feed.resident)
            fetch(*ahead)
            ahead = sent
        assert ahead is not None
        fetch(*ahead)
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *outputs)


def _check(output: Any, rows: int | None) -> None:
    """Refuses an output that has no axis of examples.

    Args:
      output: PyTree of shapes and dtypes, as the model gives it for one batch.
      rows: how many examples the batch has; None if it is no stack of examples.

    Raises:
      ValueError: an array's first axis does not count the examples; the message has its path.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(output):
        if leaf.shape and (rows is None or leaf.shape[0] == rows):
            continue
        of = f" of {rows} examples" if rows is not None else ""
        raise ValueError(
            f"predict: the model's output{jax.tree_util.keystr(path)} is of shape {leaf.shape} for a batch{of}, but "
            "there must be one output for each example, along the first axis. Of a single example give input[None]; or "
            "call loop.model(input) batch by batch."
        )
