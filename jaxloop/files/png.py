"""PNG pictures of arrays, made with Pillow."""

import io
from typing import Any

import jax.numpy as jnp
import numpy as np


def require_pillow(who: str) -> None:
    """Checks that Pillow is installed.

    Args:
      who: the caller, for the message.

    Raises:
      ModuleNotFoundError: it is not installed; the message says what to install.
    """
    try:
        import PIL.Image  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{who}: it needs Pillow, which is not installed. Install jaxloop with its extra `images`, as in "
            "`pip install 'jaxloop[images]'`, or only pillow."
        ) from error


def pixels(who: str, image: Any) -> np.ndarray:
    """The pixels of an image.

    Args:
      who: the caller, for messages.
      image: [height, width], [height, width, 1] or [height, width, 3]. Floats are clipped to the range from 0, black,
        to 1, and NaN is black. Bools count as 0 and 1; uint8 is taken as it is.

    Returns:
      uint8[height, width] or uint8[height, width, 3].

    Raises:
      TypeError: it has another dtype.
      ValueError: it has another shape.
    """
    array = np.asarray(image)
    check_image_shape(who, array.shape)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.dtype == np.uint8:
        return array
    if array.dtype != np.bool_ and not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(
            f"{who}: an image must be of floats from 0 to 1 or of uint8, got {array.dtype.name}. Convert it, by "
            "`.astype('uint8')` or by a division."
        )
    shares = np.clip(np.nan_to_num(array.astype(np.float32), nan=0.0), 0.0, 1.0)
    return np.rint(255 * shares).astype(np.uint8)


def check_image_shape(who: str, shape: tuple[int, ...]) -> None:
    """Refuses a shape that is not the shape of an image.

    Raises:
      ValueError: `pixels` does not take the shape, or it is empty.
    """
    if len(shape) not in (2, 3) or shape[2:] not in ((), (1,), (3,)) or 0 in shape:
        raise ValueError(
            f"{who}: the shape of an image must be [height, width] or [height, width, 1 or 3], got {list(shape)}."
        )


def encoded(image: np.ndarray) -> bytes:
    """The bytes of a PNG file with these pixels, as `pixels` gives them."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()
