"""CIFAR-10: batches and archives made by hand, pickles that are refused, and the real files."""

import hashlib
import io
import pickle
import tarfile

import numpy as np
import pytest

from examples.datasets import cifar10
from examples.datasets.cifar10 import FILES, load_cifar10, normalize, read_batch
from examples.datasets.files import DataFile, checked_path


def batch_file(labels: list[int]) -> bytes:
    """A batch as NumPy pickles it today; its pixels count up through red, then green, then blue."""
    data = (np.arange(len(labels) * 3072) % 251).astype(np.uint8).reshape(len(labels), 3072)
    return pickle.dumps({"data": data, "labels": labels, "batch_label": "by hand"}, protocol=3)


@pytest.fixture
def archive_dir(tmp_path, monkeypatch):
    """A data directory with an archive of six batches of one image each, labelled 1 to 6."""
    path = tmp_path / "cifar10/cifar-10-python.tar.gz"
    path.parent.mkdir()
    with tarfile.open(path, "w:gz") as archive:
        for label, name in enumerate([*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"], start=1):
            content = batch_file([label])
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    made = DataFile("cifar10", path.name, sha256, cifar10.ARCHIVE.urls)
    monkeypatch.setattr(cifar10, "ARCHIVE", made)
    return tmp_path


def test_a_batch_gives_images_of_bytes_with_the_channels_last():
    images, labels = read_batch(batch_file([3, 7]))
    assert (images.shape, images.dtype) == ((2, 32, 32, 3), np.uint8)
    assert images[0, 0, 1].tolist() == [1, 1025 % 251, 2049 % 251]
    assert images[1, 2, 0].tolist() == [(3072 + 64) % 251, (3072 + 1024 + 64) % 251, (3072 + 2048 + 64) % 251]
    assert (labels.tolist(), labels.dtype) == ([3, 7], np.int32)


def test_a_batch_that_names_numpy_s_old_modules_is_read():
    content = batch_file([3]).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert read_batch(content)[1].tolist() == [3]


@pytest.mark.parametrize(
    "content",
    [b"cos\nsystem\n(S'true'\ntR.", b"cbuiltins\neval\n(S'1'\ntR.", b"cnumpy\nload\n(S'batch'\ntR."],
    ids=["os.system", "eval", "another of NumPy's"],
)
def test_a_pickle_that_asks_for_anything_but_arrays_is_refused(content):
    module, name = content[1:].split(b"\n")[:2]
    with pytest.raises(pickle.UnpicklingError, match=rf"asks for {module.decode()}\.{name.decode()}\. It is not one"):
        read_batch(content)


def test_the_published_archive_is_read_where_the_data_directory_has_it(archive_dir):
    (images, labels), (test_images, test_labels) = load_cifar10(archive_dir)
    assert images.shape == (5, 32, 32, 3)
    assert labels.tolist() == [1, 2, 3, 4, 5]
    assert test_images.shape == (1, 32, 32, 3)
    assert test_labels.tolist() == [6]


def test_an_archive_that_is_cut_off_is_refused(archive_dir):
    path = archive_dir / "cifar10/cifar-10-python.tar.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"cifar-10-python\.tar\.gz: expected sha256"):
        load_cifar10(archive_dir)


def test_a_data_directory_without_cifar10_is_an_error_that_says_where_to_get_it(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"folder 'cifar10' with cifar-10-python\.tar\.gz, from https://www\.cs"
    ):
        load_cifar10(tmp_path)


def test_a_batch_that_is_missing_among_the_others_is_named(tmp_path, cifar10_dir):
    (tmp_path / "cifar10").mkdir()
    (tmp_path / "cifar10/data_batch_1.gz").symlink_to(cifar10_dir / "cifar10/data_batch_1.gz")
    with pytest.raises(FileNotFoundError, match=r"folder 'cifar10' with data_batch_2\.gz"):
        load_cifar10(tmp_path)


def test_normalized_images_are_floats_in_units_of_the_deviation():
    images, labels = normalize((np.full((1, 1, 1, 3), 51, np.uint8), np.array([3])))
    expected = [(0.2 - 0.4914) / 0.2470, (0.2 - 0.4822) / 0.2435, (0.2 - 0.4465) / 0.2616]
    np.testing.assert_allclose(images[0, 0, 0], expected, rtol=1e-6)
    assert images.dtype == np.float32
    assert labels.tolist() == [3]


def test_the_real_files_have_their_checksums(cifar10_dir):
    assert [checked_path(file, cifar10_dir).name for file in FILES] == [file.name for file in FILES]


def test_the_real_images_have_the_published_classes_means_and_deviations(cifar10_dir):
    (images, labels), (test_images, test_labels) = load_cifar10(cifar10_dir)
    assert (images.shape, images.dtype) == ((50000, 32, 32, 3), np.uint8)
    assert (test_images.shape, test_images.dtype) == ((10000, 32, 32, 3), np.uint8)
    assert np.bincount(labels).tolist() == [5000] * 10
    assert np.bincount(test_labels).tolist() == [1000] * 10
    assert [cifar10.CLASSES[label] for label in labels[:3]] == ["frog", "truck", "truck"]
    assert [cifar10.CLASSES[label] for label in test_labels[:3]] == ["cat", "ship", "ship"]
    shares = np.arange(256) / 255
    for channel, (mean, deviation) in enumerate(zip(cifar10.MEAN, cifar10.DEVIATION, strict=True)):
        counts = np.bincount(images[..., channel].ravel(), minlength=256)
        assert np.average(shares, weights=counts) == pytest.approx(mean, abs=5e-5)
        assert np.average((shares - mean) ** 2, weights=counts) ** 0.5 == pytest.approx(deviation, abs=1e-4)
