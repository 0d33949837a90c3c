"""`compile_cache`: compiled programs are kept in a private folder, so that the next process need not compile them."""

import os
import stat
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache


def compile_cache(path: str | Path | None = "~/.cache/jaxloop/compiled") -> Path | None:
    """Keeps every program that is compiled from now on in a folder, and loads the programs that are there already.

    This is JAX's persistent compilation cache without its thresholds, which leave out small programs: they take most
    of the time to the first step. The cache is off unless this is called. Call it at the start of a script; it starts
    no backend. Nothing ever cleans the folder: you may delete it at any time.

    Whoever can write to the folder can make this process run any code, unnoticed. So the folder is made accessible only
    for the user, and a folder that others may write to is refused.

    Args:
      path: a local folder, which is made if it is missing; `~` is the home folder. None turns the cache off.

    Returns:
      The absolute path of the folder; None if the cache was turned off.

    Raises:
      PermissionError: the folder belongs to another user, or others may write to it or replace it, or this user may not
        write to it.
      NotADirectoryError: there is something else at that path, or above it.
      ValueError: the path is empty or remote.

    Example:
      >>> jl.compile_cache("run/compiled")
    """
    folder = None if path is None else _private(path)
    if folder is not None:
        jax.config.update("jax_enable_compilation_cache", True)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)  # 0 lets JAX choose another
    jax.config.update("jax_compilation_cache_dir", None if folder is None else str(folder))
    compilation_cache.reset_cache()  # a cache already in use would keep its folder
    return folder


def _private(path: str | Path) -> Path:
    """The folder at `path`, made if it is missing, after a check that nobody else can change what is in it."""
    if not str(path) or "://" in str(path):
        raise ValueError(
            f"compile_cache: `path` must be a local folder, got {str(path)!r}. It cannot be checked who may write to a "
            "remote folder; if you trust all who can, set jax_compilation_cache_dir yourself."
        )
    try:
        folder = Path(path).expanduser().resolve()
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        taken = isinstance(error, (FileExistsError, NotADirectoryError))
        raise (NotADirectoryError if taken else type(error))(
            f"compile_cache: the folder {str(path)!r} cannot be made, {error}. Give another path."
        ) from error
    _check(folder)
    return folder


def _check(folder: Path) -> None:
    if not hasattr(os, "geteuid"):  # on Windows a folder below the user's own is the user's
        return
    found = folder.stat()
    fault = None
    if found.st_uid != os.geteuid():
        fault = f"belongs to another user, number {found.st_uid}"
    elif found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        fault = f"may be written to by others, its mode is {stat.S_IMODE(found.st_mode):o}"
    elif not os.access(folder, os.W_OK | os.X_OK):
        fault = f"cannot be written to, its mode is {stat.S_IMODE(found.st_mode):o}"
    else:
        open_to_all = [above for above in folder.parents if _anyone_may_replace_in(above.stat().st_mode)]
        fault = f"is below {str(open_to_all[0])!r}, where anyone may replace it" if open_to_all else None
    if fault is not None:
        raise PermissionError(
            f"compile_cache: the folder {str(folder)!r} {fault}. It must be private to this user, since whoever can "
            "write there can run code in this process. Give another path, or, if you trust what it holds, chmod 700 it."
        )


def _anyone_may_replace_in(mode: int) -> bool:
    # With the sticky bit, as on /tmp, only the owner of a folder may rename or delete it.
    return bool(mode & stat.S_IWOTH) and not mode & stat.S_ISVTX
