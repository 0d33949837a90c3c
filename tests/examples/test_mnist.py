"""MNIST: the IDX format on files made by hand, and the real files."""

import gzip

import numpy as np
import pytest

from examples.datasets.files import checked_path
from examples.datasets.mnist import FILES, load_mnist, read_idx


def idx_file(folder, content: bytes):
    path = folder / "some-idx-ubyte.gz"
    path.write_bytes(gzip.compress(content))
    return path


def test_an_idx_file_of_three_axes_is_read_row_by_row(tmp_path):
    header = bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 3])
    array = read_idx(idx_file(tmp_path, header + bytes([1, 2, 3, 4, 5, 255])))
    assert array.dtype == np.uint8
    assert array.tolist() == [[[1, 2, 3]], [[4, 5, 255]]]


def test_the_lengths_of_an_idx_file_are_big_endian(tmp_path):
    labels = read_idx(idx_file(tmp_path, bytes([0, 0, 8, 1, 0, 0, 1, 2]) + bytes(258)))
    assert labels.shape == (258,)


@pytest.mark.parametrize("data", [b"\1\2", b"\1\2\3\4"], ids=["short", "long"])
def test_data_of_another_length_than_the_header_says_are_refused(tmp_path, data):
    with pytest.raises(ValueError, match=rf"its header says \(3,\), 3 bytes, but {len(data)} follow"):
        read_idx(idx_file(tmp_path, bytes([0, 0, 8, 1, 0, 0, 0, 3]) + data))


@pytest.mark.parametrize(
    "content",
    [b"", b"\0\0\x08\x02\0\0\0\x01", b"\0\0\x0d\x01\0\0\0\0", b"PK\x03\x04"],
    ids=["empty", "header cut off", "float32", "zip"],
)
def test_what_is_no_idx_file_of_bytes_is_refused(tmp_path, content):
    with pytest.raises(ValueError, match="an IDX file of uint8 begins with 000008"):
        read_idx(idx_file(tmp_path, content))


def test_the_real_files_have_their_published_checksums(mnist_dir):
    assert [checked_path(file, mnist_dir).name for file in FILES] == [file.name for file in FILES]


def test_the_test_images_are_scaled_and_have_the_published_number_of_each_digit(mnist_dir):
    (training_images, training_labels), (images, labels) = load_mnist(mnist_dir)
    assert training_images.shape == (60000, 28, 28, 1)
    assert images.shape == (10000, 28, 28, 1)
    assert (images.dtype, labels.dtype) == (np.float32, np.int32)
    assert (images.min(), images.max()) == (0, 1)
    assert np.bincount(labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert training_labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert training_images.mean(dtype=np.float64) == pytest.approx(0.1306604, abs=1e-6)
