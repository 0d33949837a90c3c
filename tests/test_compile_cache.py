"""The compile cache: what is kept is found again, and only in a folder of one's own."""

import os
import stat
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from jaxloop.compile_cache import compile_cache

OPTIONS = (
    "jax_compilation_cache_dir",
    "jax_enable_compilation_cache",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
)


@pytest.fixture(autouse=True)
def _off_at_first_and_options_as_before():
    before = {name: getattr(jax.config, name) for name in OPTIONS}
    compile_cache(None)
    yield
    compile_cache(None)
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.fixture
def hits():
    """How often a program was taken from the cache: one entry for each."""
    found = []

    def listen(event, **_):
        if event == "/jax/compilation_cache/cache_hits":
            found.append(event)

    jax.monitoring.register_event_listener(listen)
    yield found
    jax.monitoring.unregister_event_listener(listen)


def compile_anew(number):
    """Compiles a small program of its own for each number, whatever was compiled before in this process."""
    jax.clear_caches()
    return jax.jit(lambda x: x * number + 1)(jnp.ones(3))


@pytest.mark.slow
def test_a_program_that_takes_no_time_to_compile_is_kept_and_found_again(tmp_path, hits):
    compile_cache(tmp_path / "cache")
    compile_anew(17.0)
    kept = sorted(path.name for path in (tmp_path / "cache").iterdir())
    assert any(name.startswith("jit_") and name.endswith("-cache") for name in kept)
    hits.clear()

    compile_anew(17.0)

    assert hits
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == kept


@pytest.mark.slow
def test_another_folder_takes_the_place_of_one_in_use(tmp_path):
    compile_cache(tmp_path / "one")
    compile_anew(18.0)
    compile_cache(tmp_path / "other")
    compile_anew(18.0)

    assert list((tmp_path / "other").iterdir())


def test_none_turns_it_off(tmp_path):
    compile_cache(tmp_path / "cache")

    assert compile_cache(None) is None
    compile_anew(19.0)

    assert list((tmp_path / "cache").iterdir()) == []


def test_the_folder_is_made_for_the_user_alone_and_given_back_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    folder = compile_cache("run/compiled")

    assert folder == tmp_path / "run" / "compiled"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_the_home_folder_may_be_written_as_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))

    assert compile_cache() == tmp_path / ".cache" / "jaxloop" / "compiled"


def test_a_folder_that_only_the_user_can_write_to_is_taken_as_it_is(tmp_path):
    folder = tmp_path / "cache"
    folder.mkdir(mode=0o755)

    assert compile_cache(folder) == folder
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755


@pytest.mark.parametrize("mode", [0o770, 0o757, 0o777])
def test_a_folder_that_others_may_write_to_is_refused(tmp_path, mode):
    folder = tmp_path / "cache"
    folder.mkdir()
    folder.chmod(mode)

    with pytest.raises(PermissionError, match=rf"may be written to by others, its mode is {mode:o}\. .*chmod 700 it"):
        compile_cache(folder)
    assert jax.config.jax_compilation_cache_dir is None


def test_a_folder_of_another_user_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)

    with pytest.raises(PermissionError, match="belongs to another user, number"):
        compile_cache(tmp_path / "cache")


def test_a_folder_that_anyone_may_replace_is_refused_unless_only_owners_may_rename_there(tmp_path):
    above = tmp_path / "shared"
    above.mkdir()
    above.chmod(0o777)
    with pytest.raises(PermissionError, match=r"is below '.*shared', where anyone may replace it"):
        compile_cache(above / "cache")

    above.chmod(0o1777)
    assert compile_cache(above / "cache") == above / "cache"


def test_a_link_is_followed_before_anything_is_checked(tmp_path):
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "link").symlink_to(tmp_path / "open")

    with pytest.raises(PermissionError, match=r"open' may be written to by others"):
        compile_cache(tmp_path / "link")


@pytest.mark.parametrize("name", ["file", "file/cache"])
def test_a_file_in_the_way_is_said(tmp_path, name):
    (tmp_path / "file").touch()

    with pytest.raises(
        NotADirectoryError, match=r"compile_cache: the folder '.*file.*' cannot be made, .*another path"
    ):
        compile_cache(tmp_path / name)


@pytest.mark.parametrize("path", ["", "gs://bucket/cache"])
def test_what_is_no_local_folder_is_refused(path):
    with pytest.raises(ValueError, match=rf"`path` must be a local folder, got '{path}'"):
        compile_cache(path)


def test_it_starts_no_backend_and_a_second_process_finds_what_the_first_has_compiled(tmp_path):
    script = f"""
import jax, jaxloop
from jax._src import xla_bridge
jaxloop.compile_cache({str(tmp_path / "cache")!r})
assert not xla_bridge.backends_are_initialized()
hits = []
jax.monitoring.register_event_listener(lambda event, **_: event.endswith("cache_hits") and hits.append(event))
jax.jit(lambda x: x * 20 + 1)(1.0)
print(len(hits))
"""
    counts = [
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip()
        for _ in range(2)
    ]

    assert counts == ["0", "1"]
