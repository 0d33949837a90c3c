"""The folder of a run's event files: made, and cut back to what it was at a checkpoint."""

import os
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import count
from pathlib import Path

from jaxloop.errors import CheckpointError
from jaxloop.events import TRAINING, VALIDATION, Split
from jaxloop.files.event_file import EventFile

_RUN = re.compile(r"\d{8}-\d{6}(-\d+)?")  # as `new_run` names it
_OURS = re.compile(r"events\.out\.tfevents\.\d{10,}\..*\.\d+\.\d+")  # as `EventFile` names its file


def new_run(root: Path) -> Path:
    """A new folder below `root`, named by the time. Other processes may make such folders at the same time."""
    root.mkdir(parents=True, exist_ok=True)
    name = datetime.now().strftime("%Y%m%d-%H%M%S")
    for number in count(1):
        folder = root / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            continue
    raise AssertionError("unreachable")


def folder_of(split: Split) -> str:
    """The folder of a split in that of a run: that of training is called `train` by custom.

    A set of validation may be called so too. No other set has the name of its folder, since "-" stands in no name.
    """
    if split == TRAINING:
        return "train"
    return f"{split.name}-set" if split.name.lower() == "train" else split.name  # some disks know no case


def has_run(root: Path, name: str) -> bool:
    """Whether there is a run of this name below `root`. A name that would lead elsewhere is none."""
    return _RUN.fullmatch(name) is not None and (root / name).is_dir()


def event_files(run: Path, splits: Sequence[Split] = (TRAINING, VALIDATION)) -> dict[str, int]:
    """The size of each event file of ours in the folder of a run, by its path in it, as POSIX writes it."""
    found = {}
    for folder in ("", *map(folder_of, splits)):
        for path in sorted((run / folder).glob("events.out.tfevents.*")):
            if _OURS.fullmatch(path.name):
                found[path.relative_to(run).as_posix()] = path.stat().st_size
    return found


def cut_back(
    run: Path, sizes: Mapping[str, int], splits: Sequence[Split] = (TRAINING, VALIDATION)
) -> dict[str, EventFile]:
    """Cuts the files of a run back to `sizes`, and deletes those that came later.

    An open TensorBoard loses what is appended to a file that was cut. So the run goes on in new files. They are made
    before later ones are deleted, and have later names: an open TensorBoard that reads those would not go back.

    Args:
      run: the folder of the run.
      sizes: as `event_files` gave them.
      splits: that have a folder in it.

    Returns:
      New files, by their folder in the run: that of training, and those where later files were deleted.

    Raises:
      CheckpointError: a file is gone, or is shorter than it was. Nothing was changed then.
      OSError: a file cannot be changed or made.
    """
    found = event_files(run, splits)
    short = [name for name, size in sizes.items() if found.get(name, -1) < size]
    if short:
        raise CheckpointError(
            f"TensorBoardLogger: in {str(run)!r} these files are gone, or shorter than they were at the checkpoint: "
            f"{', '.join(short)}. Nothing was changed. Put them back, or give another `root`, where a new folder is "
            "made."
        )
    later = [name for name in found if name not in sizes]
    folders = {"train", *(name.rpartition("/")[0] for name in later)}
    files = {folder: EventFile(run / folder) for folder in sorted(folders)}
    for name in later:
        (run / name).unlink()
    for name, size in sizes.items():
        if size != found[name]:
            os.truncate(run / name, size)
    return files
