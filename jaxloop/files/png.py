"""PNG pictures of arrays, by Pillow."""

import io
from typing import Any

import jax.numpy as jnp
import numpy as np


def require_pillow(who: str) -> None:
    """Refuses to go on where Pillow is not installed.

    Args:
      who: asks for it, named in the message.

    Raises:
      ModuleNotFoundError: it is not; the message says what to install.
    """
    try:
        import PIL.Image  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{who}: it needs Pillow, which is not installed. Install jaxloop with its extra `images`, as in "
            "`pip install 'jaxloop[images]'`, or pillow alone."
        ) from error


def pixels(who: str, image: Any) -> np.ndarray:
    """The pixels of an image.

    Args:
      who: asks, named in the message.
      image: [height, width], [height, width, 1] or [height, width, 3]. Floats reach from 0, black, to 1; what lies
        outside is cut off there, and NaN is black. Bools are 0 or 1; uint8 is taken as it is.

    Returns:
      uint8[height, width] or uint8[height, width, 3].

    Raises:
      TypeError: it is of another dtype.
      ValueError: it is of another shape.
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
    """Refuses a shape that no picture has.

    Raises:
      ValueError: it is none of those that `pixels` takes, or empty.
    """
    if len(shape) not in (2, 3) or shape[2:] not in ((), (1,), (3,)) or 0 in shape:
        raise ValueError(
            f"{who}: the shape of an image must be [height, width] or [height, width, 1 or 3], got {list(shape)}."
        )


def encoded(image: np.ndarray) -> bytes:
    """The PNG file of what `pixels` gave."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()
