"""A lock on an open file has one holder."""

import pytest

from jaxloop import file_lock
from jaxloop.file_lock import lock, unlock


def test_a_second_open_file_is_refused_until_the_first_is_unlocked(tmp_path) -> None:
    with (tmp_path / "one").open("w") as first, (tmp_path / "one").open("w") as second:
        lock(first.fileno())
        with pytest.raises(BlockingIOError):
            lock(second.fileno())
        unlock(first.fileno())
        lock(second.fileno())


def test_where_there_are_no_locks_nothing_is_locked(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(file_lock, "fcntl", None)
    with (tmp_path / "one").open("w") as first, (tmp_path / "one").open("w") as second:
        lock(first.fileno())
        lock(second.fileno())
        unlock(first.fileno())


@pytest.mark.skipif(file_lock.fcntl is None, reason="there are no locks here")
def test_a_file_system_without_locks_locks_nothing(tmp_path, monkeypatch) -> None:
    def unsupported(*arguments: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(file_lock.fcntl, "flock", unsupported)
    with (tmp_path / "one").open("w") as file:
        lock(file.fileno())
        unlock(file.fileno())
