"""Which class is predicted and which is true, from the shapes that logits and targets come in."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def check_arrays(name: str, output: Any, target: Any) -> None:
    """Refuses an output or a target that is a tree.

    Raises:
      TypeError: the output or the target is not an array.
    """
    for what, given in (("output", output), ("target", target)):
        if not hasattr(given, "shape"):
            raise TypeError(
                f"{name}: the {what} must be one array, got {jax.tree.map(jnp.shape, given)} (shapes). "
                'Choose a part by its name, as Accuracy(output="digit") does. '
                f'Give Mean(fn, "{name}") with a function of (output, target) that picks what is measured.'
            )


def single_logit(output: Any, target: Any) -> tuple[Any, Any] | None:
    """The logit and the target of each example, without an axis of 1, if each example has one logit; else None."""
    if output.shape == (*target.shape, 1):
        return output[..., 0], target
    if output.shape == target.shape and output.ndim > 1 and output.shape[-1] == 1:
        return output[..., 0], target[..., 0]
    return (output, target) if output.shape == target.shape and output.ndim == 1 else None


def each_alone(name: str, output: Any, target: Any) -> tuple[Any, Any]:
    """The logit and the target of each label.

    Raises:
      ValueError: the shapes do not fit.
    """
    if output.shape == (*target.shape, 1):
        return output[..., 0], target
    if output.shape != target.shape:
        raise ValueError(
            f"{name}: with multilabel=True there is a target of 0 or 1 for each logit; the output is of shape "
            f"{output.shape}, the target of {target.shape}. Check the model's last layer, or leave out multilabel=True."
        )
    return output, target


def known(output: Any, target: Any, single: tuple[Any, Any] | None) -> Any:
    """Whether logits and target are free of NaN: bool of the shape of the examples, or of the labels in `single`."""
    known: Any = True
    for array in (output, target) if single is None else single:
        if jnp.issubdtype(array.dtype, jnp.floating):
            is_nan = jnp.isnan(array)
            known &= ~(jnp.any(is_nan, axis=-1) if single is None and array.ndim == output.ndim else is_nan)
    return known


def logit_count(output: Any) -> int:
    return output.shape[-1] if output.ndim > 1 else 1


def yes_or_no(logit: Any, target: Any) -> tuple[Any, Any]:
    """Predicted and true class, 0 or 1, from one logit."""
    return (logit > 0).astype(jnp.int32), (target.astype(jnp.float32) > 0.5).astype(jnp.int32)


def labels(name: str, output: Any, target: Any) -> tuple[Any, Any]:
    """Predicted and true class from several logits.

    Raises:
      ValueError: the shapes do not fit.
    """
    if output.ndim > 1 and target.shape == output.shape:
        return jnp.argmax(output, axis=-1), jnp.argmax(target, axis=-1)
    if output.ndim < 2:
        raise ValueError(
            f"{name}: an output of shape {output.shape}, one logit per example, needs targets of 0 or 1 of its shape, "
            f"got {target.shape}. Check the model's last layer and whether the targets need a squeeze."
        )
    if target.shape != output.shape[:-1]:
        raise ValueError(
            f"{name}: an output of shape {output.shape} needs integer targets of shape {output.shape[:-1]}, or "
            f"probabilities of the output's shape, got {target.shape}. Check the model's last layer and whether the "
            "targets need a squeeze."
        )
    return _of_one_dtype(jnp.argmax(output, axis=-1), jnp.asarray(target))


def _of_one_dtype(predicted: jax.Array, label: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Both in a dtype that can hold both: the dtype of the label, if it has at least as many bits as an index."""
    if label.dtype.itemsize < predicted.dtype.itemsize:
        return predicted, label.astype(predicted.dtype)
    return predicted.astype(label.dtype), label


def class_count(name: str, output: Any, target: Any) -> int | None:
    """How many logits each example has, from arrays or their shapes; None for one logit, of the classes 0 and 1.

    Raises:
      TypeError: the output or the target is not one array.
    """
    check_arrays(name, output, target)
    same = output.shape == target.shape
    one = output.shape == (*target.shape, 1) or (same and output.ndim > 1 and output.shape[-1] == 1)
    return None if one or output.ndim < 2 else output.shape[-1]


def check_classes(name: str, classes: Any, least: int = 2) -> None:
    """Refuses a number of classes that there cannot be.

    Raises:
      ValueError: it is not a whole number of at least `least`.
    """
    whole = isinstance(classes, (int, np.integer)) and not isinstance(classes, bool)
    if classes is not None and not (whole and classes >= least):
        raise ValueError(
            f"{name}: `classes` must be at least {least}, or None for one logit or to find it out, got {classes!r}."
        )
