"""CIFAR-10: 60,000 colour images of 32x32 pixels in ten classes, as Krizhevsky published them."""

import gzip
import io
import pickle
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from .files import DataFile, checked_path

Samples = tuple[np.ndarray, np.ndarray]

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
#: Mean and standard deviation of each channel over the training images, as shares of 255.
MEAN = (0.4914, 0.4822, 0.4465)
DEVIATION = (0.2470, 0.2435, 0.2616)

_ADDRESS = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
ARCHIVE = DataFile(
    "cifar10",
    "cifar-10-python.tar.gz",
    "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
    (_ADDRESS,),
)
_SHA256 = {
    "data_batch_1.gz": "e1e551ddee0bdfe76e544ecf9bea52d88eba137c4cac9ee781df90df3926ce2a",
    "data_batch_2.gz": "abebf1d8078167d30bdfe8a6bd7153b915a7cd9ce3bb2a898c0e105e9939d581",
    "data_batch_3.gz": "f982985cc4bdb500cde3b58bcd50ace80ccbce9f8f4109a70d9cb1c623bfc79c",
    "data_batch_4.gz": "013bb6779bec63332e96e7736f7006300b781c8fd24b69b55ca2edd93e31f1a9",
    "data_batch_5.gz": "6dc4e9fbdc48dca3ae2271d5e7dad11a98ae328431f1a9fa83ce2eb2064b2425",
    "test_batch.gz": "9ec04b09627916c54cfc0c5b0b65a1f47274aa0590e0a0b10feddb55f376ca58",
}
FILES = tuple(DataFile("cifar10", name, sha256, (_ADDRESS,)) for name, sha256 in _SHA256.items())

_RECONSTRUCT = np.empty(0).__reduce__()[0]  # the pickle of an array names this function, which is in a private module
_ACCEPTED = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
}


def load_cifar10(data_dir: Path | None = None) -> tuple[Samples, Samples]:
    """The 50,000 samples for training and the 10,000 for testing; the pixels stay bytes.

    Args:
      data_dir: the directory that holds the folder `cifar10` with the published archive, or with its six batches, each
        as a gzip file. None downloads the archive once, into the user's cache.

    Returns:
      Training and test, each (images, labels): uint8[samples, 32, 32, 3] and int32[samples].

    Raises:
      The exceptions of `files.checked_path` and `read_batch`.
    """
    *training, test = map(read_batch, _contents(data_dir))
    images, labels = zip(*training, strict=True)
    return (np.concatenate(images), np.concatenate(labels)), test


def read_batch(content: bytes) -> Samples:
    """(images, labels) of one of the published batches: uint8[samples, 32, 32, 3] and int32[samples].

    A batch is a pickle, and a pickle can call any function. Only the functions that make an array are accepted.

    Raises:
      pickle.UnpicklingError: it names something else.
    """
    batch = _ArrayUnpickler(io.BytesIO(content), encoding="latin1").load()
    images = batch["data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), np.array(batch["labels"], np.int32)


def normalize(batch: tuple[Any, ...]) -> tuple[Any, ...]:
    """The batch with its images as float32. Over the training images each channel has mean 0 and deviation 1.

    Use it as `.map(normalize, compiled=True)`: then images travel to the device as bytes.
    """
    images, *others = batch
    shares = images.astype(jnp.float32) / 255
    return ((shares - jnp.array(MEAN)) / jnp.array(DEVIATION), *others)


class _ArrayUnpickler(pickle.Unpickler):
    """Reads a pickle of NumPy arrays in plain containers."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        accepted = _ACCEPTED.get((module_name, global_name))
        if accepted is None:
            raise pickle.UnpicklingError(
                "read_batch: a batch of CIFAR-10 holds only arrays, lists and strings, but this pickle asks for "
                f"{module_name}.{global_name}. It is not one of the published files; get them from {_ADDRESS}."
            )
        return accepted


def _contents(data_dir: Path | None) -> Iterator[bytes]:
    """The contents of the six batches, with the test batch last."""
    if data_dir is not None and any((data_dir / file.folder / file.name).exists() for file in FILES):
        for path in [checked_path(file, data_dir) for file in FILES]:
            yield gzip.decompress(path.read_bytes())
        return
    with tarfile.open(checked_path(ARCHIVE, data_dir)) as archive:
        for file in FILES:
            member = archive.extractfile(f"cifar-10-batches-py/{Path(file.name).stem}")
            assert member is not None  # since the checksum of the archive is right
            yield member.read()
