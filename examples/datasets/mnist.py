"""MNIST: 70,000 handwritten digits of 28x28 pixels, as LeCun, Cortes and Burges published them."""

import gzip
import struct
from pathlib import Path

import numpy as np

from .files import DataFile, checked_path

Samples = tuple[np.ndarray, np.ndarray]

_ADDRESSES = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
_SHA256 = {
    "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}
FILES = tuple(
    DataFile("mnist", name, sha256, tuple(address + name for address in _ADDRESSES)) for name, sha256 in _SHA256.items()
)


def load_mnist(data_dir: Path | None = None) -> tuple[Samples, Samples]:
    """The 60,000 samples for training and the 10,000 for testing.

    Args:
      data_dir: the directory that holds the folder `mnist` with the four files. None downloads them once, into the
        user's cache.

    Returns:
      Training and test, each (images, labels): float32[samples, 28, 28, 1] in [0, 1] and int32[samples].

    Raises:
      The exceptions of `files.checked_path`.
    """
    training_images, training_labels, test_images, test_labels = (
        read_idx(checked_path(file, data_dir)) for file in FILES
    )
    return _samples(training_images, training_labels), _samples(test_images, test_labels)


def read_idx(path: Path) -> np.ndarray:
    """The array in a gzip file of the IDX format, uint8 of any shape.

    The format: two zero bytes, the type (8 is uint8), the number of axes, the length of each axis as a big-endian
    uint32, and the data.

    Raises:
      ValueError: it has another format or type, or the data do not have the length that the header says.
    """
    content = gzip.decompress(path.read_bytes())
    if content[:3] != b"\0\0\x08" or len(content) < 4 + 4 * content[3]:
        raise ValueError(f"{path}: an IDX file of uint8 begins with 000008 and its axes, got {content[:4].hex()}.")
    shape = struct.unpack_from(f">{content[3]}I", content, offset=4)
    data = np.frombuffer(content, np.uint8, offset=4 + 4 * len(shape))
    if data.size != np.prod(shape):
        raise ValueError(f"{path}: its header says {shape}, {np.prod(shape)} bytes, but {data.size} follow.")
    return data.reshape(shape)


def _samples(images: np.ndarray, labels: np.ndarray) -> Samples:
    return np.divide(images[..., None], 255, dtype=np.float32), labels.astype(np.int32)
