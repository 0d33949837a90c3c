"""Files of data sets: what is found, what is refused, what is downloaded."""

import functools
import hashlib
import http.server
import sys
import threading
import zipfile

import pooch
import pytest

from examples.datasets.files import DataFile, checked_path

CONTENT = b"ten digits"


def data_file(*urls: str) -> DataFile:
    return DataFile(
        "tiny", "digits.gz", hashlib.sha256(CONTENT).hexdigest(), urls or ("https://example.org/digits.gz",)
    )


@pytest.fixture
def stored(tmp_path):
    """A data directory that holds the file."""
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny/digits.gz").write_bytes(CONTENT)
    return tmp_path


def member_file(url: str, member: str = "all/digits.gz") -> DataFile:
    return DataFile("tiny", "digits.gz", hashlib.sha256(CONTENT).hexdigest(), (url,), member)


def serve_archive(tmp_path, content: bytes = CONTENT) -> None:
    with zipfile.ZipFile(tmp_path / "served/all.zip", "w") as archive:
        archive.writestr("all/digits.gz", content)


@pytest.fixture
def address(tmp_path, monkeypatch):
    """The address of a server on this machine that has the file, with a cache of its own for what is downloaded."""
    (tmp_path / "served").mkdir()
    (tmp_path / "served/digits.gz").write_bytes(CONTENT)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path / "cache" / project)
    handler = functools.partial(_Quiet, directory=str(tmp_path / "served"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format, *args):
        pass


def test_a_file_whose_checksum_is_right_is_found_in_its_folder(stored):
    assert checked_path(data_file(), stored) == stored / "tiny/digits.gz"


def test_a_truncated_file_is_refused_with_both_checksums_and_its_path(stored):
    path = stored / "tiny/digits.gz"
    path.write_bytes(CONTENT[:4])
    with pytest.raises(ValueError, match="expected sha256") as caught:
        checked_path(data_file(), stored)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert f"expected sha256 {hashlib.sha256(CONTENT).hexdigest()}" in message
    assert f"found {hashlib.sha256(b'ten ').hexdigest()} over 4 bytes" in message
    assert "get it anew from https://example.org/digits.gz" in message


def test_a_missing_file_is_an_error_that_says_where_it_belongs(tmp_path):
    (tmp_path / "tiny").mkdir()
    with pytest.raises(FileNotFoundError, match=r"must have a folder 'tiny' with digits\.gz"):
        checked_path(data_file(), tmp_path)


def test_a_missing_data_directory_is_an_error_that_names_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        checked_path(data_file(), tmp_path / "nowhere")


def test_without_a_data_directory_the_file_is_downloaded_into_the_cache(address, tmp_path):
    path = checked_path(data_file(address + "digits.gz"))
    assert path == tmp_path / "cache/jaxloop/tiny/digits.gz"
    assert path.read_bytes() == CONTENT


def test_a_file_in_the_cache_is_not_downloaded_again(address, tmp_path):
    checked_path(data_file(address + "digits.gz"))
    (tmp_path / "served/digits.gz").unlink()
    assert checked_path(data_file(address + "digits.gz")).read_bytes() == CONTENT


def test_a_damaged_file_in_the_cache_is_replaced(address, tmp_path):
    checked_path(data_file(address + "digits.gz")).write_bytes(CONTENT[:4])
    assert checked_path(data_file(address + "digits.gz")).read_bytes() == CONTENT


def test_the_second_address_is_tried_where_the_first_fails(address):
    assert checked_path(data_file(address + "gone.gz", address + "digits.gz")).read_bytes() == CONTENT


def test_a_download_of_another_checksum_is_refused_and_not_kept(address, tmp_path):
    (tmp_path / "served/digits.gz").write_bytes(CONTENT[:4])
    with pytest.raises(ConnectionError, match=r"tiny/digits\.gz.*does not match"):
        checked_path(data_file(address + "digits.gz"))
    assert not (tmp_path / "cache/jaxloop/tiny/digits.gz").exists()


def test_a_download_that_fails_names_each_address_that_was_tried(address):
    with pytest.raises(ConnectionError) as caught:
        checked_path(data_file(address + "gone.gz", address + "lost.gz"))
    assert f"{address}gone.gz: 404" in str(caught.value)
    assert "give that folder by --data-dir, or by the environment variable JAXLOOP_DATA" in str(caught.value)
    assert f"{address}lost.gz: 404" in str(caught.value)


def test_a_member_of_an_archive_is_unpacked_into_the_cache_and_the_archive_got_once(address, tmp_path):
    serve_archive(tmp_path)
    file = member_file(address + "all.zip")
    assert checked_path(file) == tmp_path / "cache/jaxloop/tiny/digits.gz"
    (tmp_path / "served/all.zip").unlink()
    assert checked_path(file).read_bytes() == CONTENT
    checked_path(file).unlink()
    assert checked_path(file).read_bytes() == CONTENT


def test_a_member_of_another_checksum_is_refused_and_neither_it_nor_the_archive_kept(address, tmp_path):
    serve_archive(tmp_path, CONTENT[:4])
    with pytest.raises(ConnectionError, match=r"tiny/digits\.gz.*expected sha256"):
        checked_path(member_file(address + "all.zip"))
    serve_archive(tmp_path)
    assert checked_path(member_file(address + "all.zip")).read_bytes() == CONTENT


def test_a_damaged_member_in_the_cache_is_unpacked_anew(address, tmp_path):
    serve_archive(tmp_path)
    checked_path(member_file(address + "all.zip")).write_bytes(CONTENT[:4])
    assert checked_path(member_file(address + "all.zip")).read_bytes() == CONTENT


def test_what_is_no_archive_or_lacks_the_member_is_refused_and_not_kept(address, tmp_path):
    serve_archive(tmp_path)
    with pytest.raises(ConnectionError, match="it is no zip archive that holds gone"):
        checked_path(member_file(address + "all.zip", "gone"))
    with pytest.raises(ConnectionError, match=r"it is no zip archive that holds all/digits\.gz"):
        checked_path(member_file(address + "digits.gz"))
    assert list((tmp_path / "cache/jaxloop/tiny").iterdir()) == []


def test_the_absence_of_pooch_says_which_extra_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install '\.\[examples\]'"):
        checked_path(data_file())
