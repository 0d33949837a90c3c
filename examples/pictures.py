"""Many images as one picture."""

from pathlib import Path

import numpy as np

try:
    from PIL import Image
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "Saving pictures needs Pillow, which is not installed. Run pip install '.[examples]'."
    ) from error


def save_grid(path: str | Path, images: np.ndarray, *, columns: int) -> None:
    """Saves grey images side by side, in rows from left to right.

    Args:
      path: the path of the file. Its ending gives the format, such as `.png`. Its folder is made.
      images: float[rows * columns, height, width] in [0, 1].
      columns: the number of images in a row.
    """
    count, height, width = images.shape
    rows = images.reshape(count // columns, columns, height, width)
    grid = rows.swapaxes(1, 2).reshape(-1, columns * width)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.rint(255 * grid).astype(np.uint8)).save(path)
