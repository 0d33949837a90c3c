"""Predictions: the model's outputs for the batches of one phase, without the copies that fill up the last of them."""

from typing import Any

import jax
import numpy as np

from jaxloop.engine.setup import Start
from jaxloop.feeding.specification import Batch, rows_of
from jaxloop.loop import Loop
from jaxloop.programs.programs import Program, Programs
from jaxloop.step import output_of


def predicted(start: Start, programs: Programs, *, fresh: bool) -> Any:
    """The outputs of all batches, one after the other, in NumPy.

    Args:
      start: of a prediction.
      programs: kept by the training loop.
      fresh: as `output_of` takes it.

    Raises:
      ValueError: the output is not one per example.
    """
    feed, spec = start.feeds.validation, start.spec
    assert feed is not None
    prepare = feed.prepare

    def output(loop: Loop, batch: Batch, resident: Any) -> Any:
        batch = batch if prepare is None else prepare(resident, batch)
        return output_of(spec, loop, batch, fresh=fresh)

    program = programs.get(("predict", spec, fresh, prepare), lambda: Program("predict", output))
    outputs: list[Any] = []
    for rows, batch in feed.sized():
        if not outputs:
            _check(jax.eval_shape(program.jitted, start.loop, batch, feed.resident), rows_of(batch[:2]))
        outputs.append((rows, program(start.loop, batch, feed.resident)))
    cut = [jax.tree.map(lambda leaf, rows=rows: np.asarray(leaf)[:rows], output) for rows, output in outputs]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *cut)


def _check(output: Any, rows: int | None) -> None:
    """Refuses an output that has no axis of examples.

    Args:
      output: PyTree of shapes and dtypes, as the model gives it for one batch.
      rows: how many examples the batch has, None where it is no stack of examples.

    Raises:
      ValueError: an array's first axis does not count the examples; the message has its path.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(output):
        if leaf.shape and (rows is None or leaf.shape[0] == rows):
            continue
        of = f" of {rows} examples" if rows is not None else ""
        raise ValueError(
            f"predict: the model's output{jax.tree_util.keystr(path)} is of shape {leaf.shape} for a batch{of}, but "
            "there must be one output for each example, along the first axis. Call loop.model(input) batch by batch."
        )
