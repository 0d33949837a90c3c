"""Advice before the first step: what runs, but is most likely not what was meant."""

# pyright: reportUnknownArgumentType=false, reportUnknownVariableType=false
# JAX, and what users give, leave types open here; all else is checked strictly.

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from jaxloop import losses
from jaxloop.feeding.specification import Batch
from jaxloop.programs.step_trace import StepEnds
from jaxloop.telling import advise

_OF_LOGITS = {losses.softmax_cross_entropy: "softmax", losses.sigmoid_cross_entropy: "sigmoid"}
_BYTES = (128, 255)  # between these the largest number of an image of bytes nearly always is
_AN_IMAGE = 64  # numbers that an example must have to be taken for an image: columns of a table are fewer


def advise_on_prints(prints: Sequence[str]) -> None:
    """Warns of `print` in compiled code, each part of it once."""
    for part in prints:
        advise(
            f"{part}: it is compiled, so `print` ran only now, while it was traced, and not at each step. Write "
            "jax.debug.print('{}', value), or print from a host callback, by @jaxloop.on_host."
        )


def advise_on(ends: StepEnds, loss_fn: Any, first: Callable[[], Batch], kind: Batch, where: str) -> None:
    """Warns of a softmax or a sigmoid that the loss applies again, of a loss without a gradient, and of plain bytes.

    Args:
      ends: what the step does first to the input and last to the output, and whether it has a gradient.
      loss_fn: of the training loop.
      first: gives the first batch, on the host. It is read only where an input could be an image.
      kind: its shapes and dtypes.
      where: what the user calls the data.
    """
    _on_activation(ends, loss_fn)
    if ends.flat:
        advise(
            "loss_fn: the gradient of every parameter is 0, whatever the data are, so none is learned. The loss "
            "does not depend on the parameters, or only through what has no gradient: an argmax, a comparison, a "
            "rounding, jax.lax.stop_gradient. Train on a loss that has one, as jaxloop.losses.softmax_cross_entropy, "
            "and give an accuracy as a metric."
        )
    for (path, like), leaf in zip(jax.tree_util.tree_leaves_with_path(kind[0]), _lazily(first, kind), strict=False):
        name = jax.tree_util.keystr(path)
        if name in ends.weighed and _could_be_image(like) and _are_bytes(leaf):
            what = "bytes" if like.dtype == np.uint8 else f"whole numbers up to {np.max(leaf()):g}, as bytes are"
            advise(
                f"{where}: input{name} holds {what}, and the model multiplies them by weights as they come, so that "
                "training is slow or diverges. Scale it, as `images.astype(numpy.float32) / 255`."
            )


def _on_activation(ends: StepEnds, loss_fn: Any) -> None:
    expected = next((name for known, name in _OF_LOGITS.items() if known is loss_fn), None)
    found = ends.activations.get("")
    if expected is not None and found is not None:
        name = next(known.__name__ for known in _OF_LOGITS if known is loss_fn)
        advise(
            f"loss_fn: {name} takes logits and applies the {expected} itself, but the model ends with a {found}. With "
            f"both it learns slowly, and the loss cannot reach 0. Leave the {found} out of the model, and apply it to "
            "what `predict` gives."
        )


def _lazily(first: Callable[[], Batch], kind: Batch) -> list[Callable[[], np.ndarray]]:
    """The arrays of the first input, each read when it is called."""
    return [
        (lambda place=place: np.asarray(jax.tree.leaves(first()[0])[place]))
        for place in range(len(jax.tree.leaves(kind[0])))
    ]


def _could_be_image(like: Any) -> bool:
    """Whether examples are arrays of bytes, or of floats and large enough."""
    size = int(np.prod(like.shape[1:], dtype=np.int64))
    return like.dtype == np.uint8 or (size >= _AN_IMAGE and np.issubdtype(like.dtype, np.floating))


def _are_bytes(leaf: Callable[[], np.ndarray]) -> bool:
    """Whether numbers are whole, from 0 to 255, with large ones among them."""
    rows, (least, most) = leaf(), _BYTES
    if not rows.size or not least <= rows.max() <= most or rows.min() < 0:
        return False
    return rows.dtype == np.uint8 or bool((rows == np.floor(rows)).all())
