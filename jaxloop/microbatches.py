"""A batch of training as microbatches, one after the other, with the gradient of the whole batch. No I/O."""

import functools
import zlib
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxloop.carried import carried
from jaxloop.forward import hold, with_model_state
from jaxloop.gradient import (
    Changes,
    Variables,
    changes_between,
    differentiate,
    mean_loss,
    passed,
    value_and_gradient,
    with_changes,
)
from jaxloop.loop import STATIC_FIELDS, Loop
from jaxloop.losses import spread_weight, weighted_sum
from jaxloop.masks import with_stand_ins
from jaxloop.model import overwritten_state
from jaxloop.precision import wide_dtype, widened
from jaxloop.shardings import with_parameters
from jaxloop.step_spec import StepSpec

#: What one microbatch leaves to the next; of the model its state.
_IN_TURN = ("model", "opt_state", "metrics", "callback_state", "stop")
#: What has a row for each example.
_IN_ROWS = ("input", "target", "weight", "output", "loss")
_PURPOSE = zlib.crc32(b"microbatch")


def differentiated(spec: StepSpec, loop: Loop) -> Loop:
    """Forward pass, loss and gradient, as `differentiate`, but with the memory of one microbatch at a time.

    The gradient is that of the mean loss of the whole batch, whatever its weights. Output and losses are those of the
    whole batch, in its order. The model's state and what a `differentiable_step` remembers run through the
    microbatches in turn. What it records is the mean over them, each weighted as its losses are.

    Args:
      spec: what the step is made of.
      loop: in training, with the batch.

    Raises:
      ValueError: the batch, or what the step makes of it, cannot be split.
    """
    if spec.accumulate == 1:
        return differentiate(spec, loop)
    split = _split(spec, loop)
    (turning, sums), (_, weights, rows, stats) = _scanned(split, loop.model.params)
    gradient = jax.tree.map(_in_dtype_of, sums, loop.model.params)
    gradient = with_parameters(spec.placement, loop.model, gradient)
    after = with_changes(loop, turning).replace(gradient=gradient, **jax.tree.map(_whole, rows))
    if stats:
        after = after.replace(stats=loop.stats | {name: _mean(values, weights) for name, values in stats.items()})
    if spec.differentiable_step is None and loop.weight is not None:
        # A microbatch without any weight had no example whose loss could stand in.
        after = after.replace(loss=with_stand_ins(after.loss, loop.weight, divided=spec.placement is not None))
    return after


def loss_at(spec: StepSpec, params: Any, loop: Loop) -> jax.Array:
    """The mean loss of the batch at hand as a function of parameters, float[], which can be differentiated."""
    if spec.accumulate == 1:
        return mean_loss(spec, Variables(params, {}), loop)[0]
    split = _split(spec, loop)

    # Whoever differentiates the loss needs the memory of one microbatch too, since each is run again.
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def body(turning: Changes, at_hand: Any) -> tuple[Changes, jax.Array]:
        one = split.one(turning, *at_hand)
        value, changes = split.share(Variables(params, {}), one)
        after = carried(one, with_changes(one, changes))
        return jax.lax.stop_gradient(split.in_turn(after)), value

    _, values = jax.lax.scan(body, split.beginning, split.parts)
    return jnp.sum(values)


def gradient_at(spec: StepSpec, params: Any, loop: Loop) -> Any:
    """The gradient of that loss for parameters."""
    if spec.accumulate == 1:
        return value_and_gradient(functools.partial(mean_loss, spec), Variables(params, {}), loop)[2].params
    (_, sums), _ = _scanned(_split(spec, loop), params)
    return jax.tree.map(_in_dtype_of, sums, params)


@dataclass(frozen=True)
class _Split:
    """A batch in microbatches, and what is known of their passes.

    Attributes:
      spec: what the step is made of.
      loop: in training, with the whole batch.
      parts: the index of each microbatch, with its (input, target, weight); a leading axis of microbatches.
      total: the weight of the whole batch, which divides the sum of all losses.
      turning: which of `_IN_TURN` a pass changes.
    """

    spec: StepSpec
    loop: Loop
    parts: Any
    total: Any = 1.0
    turning: tuple[str, ...] = ()

    def one(self, turning: Changes, index: Any, batch: Any) -> Loop:
        """The loop with one microbatch at hand, and with what the one before has left."""
        key = jax.random.fold_in(jax.random.fold_in(self.loop.key, _PURPOSE), index)
        return hold(with_changes(self.loop, turning), batch).replace(key=key)

    def share(self, variables: Variables, one: Loop) -> tuple[jax.Array, Changes]:
        """What a microbatch adds to the mean loss of the batch, and what its forward pass changes."""
        after = passed(self.spec, variables, one)
        values = widened(after.loss)
        summed = (
            jnp.sum(values)
            if one.weight is None
            else weighted_sum(values, spread_weight(one.weight, values.shape, values.dtype))
        )
        return summed / jnp.asarray(self.total, values.dtype), changes_between(one, after)

    def in_turn(self, after: Loop) -> Changes:
        """What a microbatch leaves to the next."""
        return {name: after.model.state if name == "model" else getattr(after, name) for name in self.turning}

    @property
    def beginning(self) -> Changes:
        """What the first microbatch is given."""
        return jax.tree.map(jnp.asarray, self.in_turn(self.loop))


def _scanned(split: _Split, params: Any) -> tuple[tuple[Changes, Any], tuple[Any, Any, Any, Any]]:
    """The passes of all microbatches at `params`.

    Returns:
      What the last one leaves, and the gradient, in floats of at least 32 bits. And with a leading axis of
      microbatches: their shares of the loss, their weights, what has rows, and what was recorded.
    """

    def body(carry: tuple[Changes, Any], at_hand: Any) -> Any:
        turning, sums = carry
        one = split.one(turning, *at_hand)
        variables = Variables(params, overwritten_state(one.model))
        value, changes, gradient = value_and_gradient(split.share, variables, one)
        after = with_changes(one, changes)
        if gradient.overwritten:
            after = with_model_state(after, after.model.state | gradient.overwritten)
        after = carried(one, after)
        rows = {name: changes[name] for name in _IN_ROWS if name in changes}
        kept = split.in_turn(after), jax.tree.map(_add, sums, gradient.params)
        return kept, (value, _weight(one, after.loss.shape), rows, _recorded(one, after))

    sums = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, wide_dtype(leaf.dtype)), params)
    return jax.lax.scan(body, (split.beginning, sums), split.parts)


def _split(spec: StepSpec, loop: Loop) -> _Split:
    """The batch at hand in microbatches of every n-th row, once an abstract pass of one shows that it can be split.

    The rows are strided, since microbatches of neighbours would move between the devices of a mesh.

    Raises:
      ValueError: it cannot be split.
    """
    count, batch = spec.accumulate, (loop.input, loop.target, loop.weight)
    size = _size_of_each(batch, count)
    parts = jnp.arange(count), jax.tree.map(lambda leaf: _parts(leaf, count), batch)
    split = _Split(spec, loop, parts)
    changed: set[str] = set()

    def seen(part: Any) -> Any:
        one = split.one({}, *part)
        variables = Variables(one.model.params, overwritten_state(one.model))
        after = passed(spec, variables, one)
        changed.update(name for name in changes_between(one, after) if not _is_same(name, one, after))
        changed.update(["model"] if variables.overwritten else [])
        return {name: getattr(after, name) for name in _IN_ROWS if name in changed}, _recorded(one, after)

    rows, recorded = jax.eval_shape(seen, jax.tree.map(lambda leaf: leaf[0], parts))
    _check_changes(changed, count)
    _check_rows(rows, size, count)
    _check_recorded(recorded, count)
    shape = (size * count, *rows["loss"].shape[1:])
    total = _weight(loop, shape, wide_dtype(rows["loss"].dtype))
    total = jnp.where(total == 0, 1, total)
    return _Split(spec, loop, parts, total, tuple(name for name in _IN_TURN if name in changed))


def _parts(leaf: Any, count: int) -> jax.Array:
    """(batch, ...) as (count, batch / count, ...), where microbatch i has the rows j * count + i."""
    return jnp.moveaxis(leaf.reshape(-1, count, *leaf.shape[1:]), 1, 0)


def _whole(leaf: jax.Array) -> jax.Array:
    """The inverse of `_parts`."""
    return jnp.moveaxis(leaf, 0, 1).reshape(-1, *leaf.shape[2:])


def _weight(loop: Loop, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """The sum of the weights of losses of `shape`, in `dtype`."""
    return jnp.sum(spread_weight(loop.weight, shape, dtype))


def _recorded(before: Loop, after: Loop) -> dict[str, Any]:
    """The statistics that a pass has recorded."""
    return {name: value for name, value in after.stats.items() if value is not before.stats.get(name)}


def _mean(values: jax.Array, weights: jax.Array) -> jax.Array:
    """The mean of what microbatches have recorded. One without weight does not count, unless none has any."""
    weights = jnp.where(jnp.sum(weights) == 0, 1, weights)
    return weighted_sum(values, weights) / jnp.sum(weights)


def _is_same(name: str, before: Loop, after: Loop) -> bool:
    return name in STATIC_FIELDS and getattr(before, name) == getattr(after, name)


def _in_dtype_of(leaf: jax.Array, param: Any) -> jax.Array:
    return leaf.astype(param.dtype)


def _add(one: jax.Array, other: jax.Array) -> jax.Array:
    return one + other.astype(one.dtype)


def _size_of_each(batch: Any, count: int) -> int:
    """How many examples a microbatch has.

    Raises:
      ValueError: the batch has no axis of examples, or they cannot be divided by `count`.
    """
    leaves = jax.tree.leaves(batch)
    if not leaves:
        raise ValueError("accumulate: a step without data has no batch to split. Leave `accumulate` out.")
    shapes = [jnp.shape(leaf) for leaf in leaves]
    if () in shapes or len({shape[0] for shape in shapes}) > 1:
        raise ValueError(
            "accumulate: only arrays whose first axis is that of the examples can be split, but those of the batch "
            f"have the shapes {', '.join(map(str, map(list, shapes)))}, as those of several graphs in one batch have. "
            "Leave `accumulate` out, and make the batches smaller; `optax.MultiSteps` averages their gradients."
        )
    size = shapes[0][0]
    each, rest = divmod(size, count)
    if rest:
        sizes = " or ".join(str(fit) for fit in (size - rest, size - rest + count) if fit)
        raise ValueError(
            f"accumulate: a batch of {size} examples cannot be taken as {count} microbatches of one size, since "
            f"{size} = {count} * {each} + {rest}. Give a batch size of {sizes}, or another `accumulate`."
        )
    return each


def _check_changes(changed: set[str], count: int) -> None:
    others = sorted(changed - {*_IN_TURN, *_IN_ROWS, "stats"})
    if others:
        raise ValueError(
            f"accumulate: differentiable_step changes loop.{others[0]}, and it is not known what {count} microbatches "
            "together make of it. Change it in a callback, or leave `accumulate` out."
        )


def _check_rows(rows: dict[str, Any], size: int, count: int) -> None:
    if not jnp.ndim(rows["loss"]):
        raise ValueError(
            f"accumulate: the loss is a scalar, so that {count} microbatches cannot be weighted by their examples. "
            "Give one loss per example or token, as those in jaxloop.losses; jaxloop takes the mean."
        )
    for path, leaf in jax.tree_util.tree_leaves_with_path(rows):
        if leaf.shape[:1] != (size,):
            place = f"loop.{path[0].key}{jax.tree_util.keystr(path[1:])}"
            raise ValueError(
                f"accumulate: {place} must have a row for each of the {size} examples of a microbatch, so that {count} "
                f"can be put together, got {list(leaf.shape)}. Give it an axis of examples, or leave `accumulate` out."
            )


def _check_recorded(recorded: dict[str, Any], count: int) -> None:
    for name, value in recorded.items():
        if not jnp.issubdtype(value.dtype, jnp.floating):
            raise ValueError(
                f"accumulate: differentiable_step records {name!r} as {value.dtype.name}, and of {count} microbatches "
                "the mean is recorded, which no integer holds. Record it as a float, or in a callback."
            )
