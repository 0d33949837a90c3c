"""Writing checkpoints in the background, one after the other: the calling thread only starts the copies."""

import contextlib
import errno
import json
import math
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from jaxloop.checkpoint.arrays import load_library
from jaxloop.checkpoint.commit import Content, abandon, commit, discard, prepare
from jaxloop.checkpoint.disk import refuse_remote, remove
from jaxloop.checkpoint.fingerprint import compile_snapshot, snapshot
from jaxloop.checkpoint.journal import Journal
from jaxloop.checkpoint.leaves import Flat
from jaxloop.checkpoint.lock import Lock
from jaxloop.checkpoint.naming import LOCK, aside, committed, journal_path, next_ordinal, path_of, temporaries
from jaxloop.checkpoint.retention import best, kept
from jaxloop.checkpoint.store import Saved, Store
from jaxloop.errors import CheckpointError
from jaxloop.telling import warn


class Writer:
    """Writes the checkpoints of one run to a directory that is its own as long as the writer is open.

    Args:
      directory: the directory, made if it is missing.
      keep: how many of the newest checkpoints stay, at least 1.
      best: the name of a value, and whether `"min"` or `"max"` is better: the best checkpoint stays too. A value that
        is None, NaN or infinite is never the best. Of equal ones the first is.
      journals: size and CRC of each journal to go on from; what follows in the file is cut at the first save.
      going_on_from: the ordinal that the run was resumed from. Newer checkpoints, which could not be used, are moved
        aside once the next is committed. None begins a run, in a directory without checkpoints.

    Attributes:
      failed: what a save in the background raised, until `check` raises it; else None.

    Raises:
      CheckpointError: the directory cannot be written, another fit writes it, or it holds another run.
      ValueError: an argument is not as described.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        keep: int,
        best: tuple[str, str] | None = None,
        journals: Mapping[str, tuple[int, int]] | None = None,
        going_on_from: int | None = None,
    ):
        refuse_remote(directory)
        if keep < 1:
            raise ValueError(f"checkpoint: `keep` must be at least 1, got {keep}.")
        if best is not None and (len(best) != 2 or best[1] not in ("min", "max")):
            raise ValueError(f'checkpoint: `best` is a name and "min" or "max", got {best!r}.')
        self.directory = Path(directory).absolute()  # a later `chdir` does not move the run
        self.failed: CheckpointError | None = None
        self._keep, self._best = keep, best
        self._places = {name: (size, crc) for name, (size, crc) in (journals or {}).items()}
        self._paths = {name: journal_path(self.directory, name) for name in self._places}
        self._journals: dict[str, Journal] = {}
        self._pending: dict[str, bytes] = {}
        self._under_way: tuple[threading.Event, threading.Thread] | None = None  # set once the save is done
        self._preparing: threading.Thread | None = None
        self._compiled = threading.Event()
        self._notices: list[str] = []
        self._lock = _locked(self.directory, going_on_from)
        try:
            self._open(going_on_from)
        except BaseException:
            self._lock.release()
            raise

    def expect(self, arrays: Sequence[jax.Array]) -> None:
        """Prepares in the background for saves of arrays of these kinds: else training would wait in the first one.

        Args:
          arrays: of them only shape, dtype and sharding matter; they may be donated or changed once this returns.
        """
        kinds = [jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=array.sharding) for array in arrays]
        self._preparing = _thread(self._prepare, kinds)
        self._preparing.start()

    def write(
        self,
        tree_flat: Flat,
        about: dict[str, Any],
        *,
        value: float | None = None,
        appended: Mapping[str, bytes] | None = None,
        wait: bool = False,
    ) -> None:
        """Begins a save, after the one before is done: starts the copies, and returns. A thread does the rest.

        Args:
          tree_flat: what to save; its arrays may be donated or changed once this returns.
          about: JSON of the engine's own; what it holds now is saved.
          value: by which the best checkpoint is found.
          appended: what each journal grows by, at this checkpoint.
          wait: whether to return only after the commit.

        Raises:
          CheckpointError: this save or the one before has failed, see `check`.
          TypeError: `about` is no JSON.
        """
        self._drain()
        self.check()
        self._tell()
        text = json.dumps(about)
        if self._preparing is not None:
            self._compiled.wait()  # else it would be compiled twice
        copies, marks = snapshot(tree_flat.arrays)
        for name, content in (appended or {}).items():
            self._paths[name] = journal_path(self.directory, name)
            self._pending[name] = self._pending.get(name, b"") + content
        content = Content(copies, marks, tree_flat.described, text, _number(value), self._best)
        self._begin(content)
        del copies, content
        if wait:
            self._drain()
            self.check()
            self._tell()

    @property
    def best_value(self) -> float | None:
        """The best value of all checkpoints; None if there is none."""
        first = None if self._best is None else best(self._values, self._best[1])
        return None if first is None else self._values[first]

    def check(self) -> None:
        """Raises the `CheckpointError` of a save that has failed in the background, once."""
        if self.failed is not None:
            error, self.failed = self.failed, None
            raise error

    def close(self) -> None:
        """Waits for the save that is under way, and gives the directory free. A second call does nothing.

        Raises:
          CheckpointError: a save has failed, and `check` has not raised it.
        """
        if self._lock is None:
            return
        try:
            self._drain()
            if self._preparing is not None:
                self._preparing.join()
        finally:
            lock, self._lock = self._lock, None
            for journal in self._journals.values():
                journal.close()
            lock.release()
        self.check()
        self._tell()

    def _open(self, going_on_from: int | None) -> None:
        for path in temporaries(self.directory):
            remove(path)
        checkpoints = Store(self.directory).checkpoints()
        if going_on_from is not None and all(saved.ordinal != going_on_from for saved in checkpoints):
            raise CheckpointError(
                f"checkpoint: {self.directory} does not hold checkpoint {going_on_from}, from which the run goes on."
            )
        self._ordinal = next_ordinal(self.directory)
        last = going_on_from or 0
        self._values = {saved.ordinal: self._value_of(saved) for saved in checkpoints if saved.ordinal <= last}
        self._newer = [saved.path for saved in checkpoints if saved.ordinal > last]

    def _value_of(self, saved: Saved) -> float | None:
        """The value of a checkpoint of before, if it is the same that counts now."""
        try:
            manifest = saved.manifest()
        except CheckpointError:
            return None
        same = self._best is not None and (manifest["best"] or [None])[0] == self._best[0]
        return manifest["value"] if same else None

    def _drain(self) -> None:
        """Waits for the save under way. Not by `join` only: once Ctrl-C has broken that off, it waits no more.

        A thread that is not quite over when the interpreter ends would abort the process. So it is joined after that.
        """
        if self._under_way is not None:
            done, thread = self._under_way
            done.wait()
            thread.join()
            self._under_way = None

    def _tell(self) -> None:
        """Warns of what the thread has met: a warning there, turned into an error, would end the save."""
        notices, self._notices = self._notices, []
        for notice in notices:
            warn(notice)

    def _prepare(self, kinds: Sequence[jax.ShapeDtypeStruct]) -> None:
        """What the thread does before the first save. If something is wrong, that save meets it too, and tells."""
        with contextlib.suppress(Exception):
            try:
                compile_snapshot(kinds)
            finally:
                self._compiled.set()
            load_library()

    def _begin(self, content: Content) -> None:
        """Starts the thread that saves `content` under the next ordinal."""
        done = threading.Event()
        thread = _thread(self._save, self._ordinal, content, done)
        self._ordinal += 1
        thread.start()
        self._under_way = done, thread

    def _save(self, ordinal: int, content: Content, done: threading.Event) -> None:
        """What the thread does."""
        try:
            self._save_now(ordinal, content)
        finally:
            done.set()

    def _save_now(self, ordinal: int, content: Content) -> None:
        """Whatever it raises is kept for `check`."""
        path = path_of(self.directory, ordinal)
        try:
            prepare(path, content)
            self._append()
            commit(path, content, {name: (journal.size, journal.crc) for name, journal in self._journals.items()})
        except BaseException as error:
            abandon(path)
            self.failed = _failure(path, json.loads(content.about), error)
            self.failed.__cause__ = error
            return
        self._values[ordinal] = content.value
        self._make_room()

    def _append(self) -> None:
        """Appends to each journal what is due. What cannot be written stays due."""
        for name, path in self._paths.items():
            if name not in self._journals:
                self._journals[name] = Journal(path, *self._places.get(name, (0, 0)))
            if content := self._pending.get(name):
                self._journals[name].append(content)
                del self._pending[name]

    def _make_room(self) -> None:
        """Moves aside what could not be used, and removes what need not be kept. A failure here fails no save."""
        try:
            for path in self._newer:
                name = aside(path)
                path.rename(name)
                self._notices.append(
                    f"checkpoint: {path.name} could not be used, and is now {name}. Remove it when you have looked."
                )
            self._newer = []
            stay = kept(self._values, keep=self._keep, mode=None if self._best is None else self._best[1])
            for ordinal in sorted(set(self._values) - stay):
                del self._values[ordinal]
                discard(path_of(self.directory, ordinal))
        except OSError as error:
            self._notices.append(f"checkpoint: an old checkpoint could not be removed from {self.directory}: {error}")


def _thread(work: Callable[..., None], *arguments: Any) -> threading.Thread:
    return threading.Thread(target=work, args=arguments, name="jaxloop-checkpoint", daemon=True)


def _locked(directory: Path, going_on_from: int | None) -> Lock:
    """The lock on a directory, made if it is missing; one that holds a run which nobody resumes is left untouched."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock_path = directory / LOCK
        if not lock_path.exists():
            _refuse_another_run(directory, going_on_from)
        lock = Lock(lock_path)
    except BlockingIOError as error:
        raise CheckpointError(
            f"checkpoint: another fit writes {directory}, in this process or another. Let it end, or give another "
            "directory."
        ) from error
    except OSError as error:
        raise CheckpointError(
            f"checkpoint: {directory} cannot be written: {error}. Give a directory that can be."
        ) from error
    try:
        _refuse_another_run(directory, going_on_from)
    except BaseException:
        lock.release()
        raise
    return lock


def _refuse_another_run(directory: Path, going_on_from: int | None) -> None:
    if going_on_from is None and (held := committed(directory)):
        raise CheckpointError(
            f"checkpoint: {directory} holds the checkpoints of a run, {len(held)} of them. Go on with it by "
            f"resume_from={str(directory)!r}, or give another directory. Nothing was changed."
        )


def _number(value: float | None) -> float | None:
    """A value as JSON keeps it; one that is not finite is none."""
    return float(value) if value is not None and math.isfinite(value) else None


def _failure(path: Path, about: dict[str, Any], error: BaseException) -> CheckpointError:
    step = f" (step {about['step']})" if isinstance(about, dict) and "step" in about else ""
    cause = f"{type(error).__name__}: {' '.join(str(error).split())}"
    if len(cause) > 500:  # TensorStore says the file first and the reason last
        cause = f"{cause[:250]} ... {cause[-250:]}"
    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in cause or "quota" in cause
    full = full or "RESOURCE_EXHAUSTED" in cause  # what TensorStore says of a full disk, in a ValueError
    fix = "Make room on the disk" if full else "See to the cause"
    held = committed(path.parent)
    rest = (
        f"Those saved before are as they were. {fix}, and go on by resume_from={str(path.parent)!r}."
        if held
        else f"None was saved before. {fix}, and begin again."
    )
    return CheckpointError(f"checkpoint: {path.parent} did not get checkpoint {path.name}{step}: {cause}. {rest}")
