"""Files of data sets: found in a folder or downloaded, and never read before their checksum was."""

import hashlib
import zipfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class DataFile:
    """A file as its publisher has it.

    Attributes:
      folder: of the data set, below the data directory.
      name: of the file in that folder.
      sha256: of its bytes, in hexadecimal.
      urls: where it can be had; they are tried in turn.
      member: of the zip archives that the urls are, which one is the file; empty where the urls are the file itself.
    """

    folder: str
    name: str
    sha256: str
    urls: tuple[str, ...]
    member: str = ""


def checked_path(file: DataFile, data_dir: Path | None = None) -> Path:
    """Where `file` lies on this machine; its checksum is right.

    Args:
      file: which one.
      data_dir: what holds `<folder>/<name>`; None downloads the file into the user's cache, once.

    Raises:
      FileNotFoundError: it is not in `data_dir`.
      ValueError: its checksum is not the published one.
      ConnectionError: it could not be downloaded from any of its addresses.
      ModuleNotFoundError: it has to be downloaded and pooch is not installed.
    """
    if data_dir is None:
        return _downloaded(file)
    path = data_dir / file.folder / file.name
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: there is no such file. The data directory, {str(data_dir)!r}, must have a folder "
            f"{file.folder!r} with {file.name}, from {file.urls[0]}; without a data directory it is downloaded."
        )
    check_sha256(path, file)
    return path


def check_sha256(path: Path, file: DataFile) -> None:
    """Reads the file at `path` once.

    Raises:
      ValueError: its checksum is not that of `file`.
    """
    with path.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    if found != file.sha256:
        raise ValueError(
            f"{path}: expected sha256 {file.sha256}, found {found} over {path.stat().st_size} bytes. The file is cut "
            f"off or is not the published one; get it anew from {file.urls[0]}."
        )


def _downloaded(file: DataFile) -> Path:
    """The file in the user's cache, downloaded where it is not there yet."""
    try:
        import pooch
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{file.name}: to download it takes pooch, which is not installed. Run pip install '.[examples]', or "
            "give a data directory."
        ) from error
    cache = Path(pooch.os_cache("jaxloop")) / file.folder
    failures: list[str] = []
    for url in file.urls:
        try:
            if file.member:
                return _unpacked(file, url, cache)
            return Path(pooch.retrieve(url, known_hash=f"sha256:{file.sha256}", fname=file.name, path=cache))
        except (OSError, ValueError) as error:  # no connection, or another checksum
            failures.append(f"{url}: {error}")
    raise ConnectionError(
        f"{file.name}: it could not be downloaded. Get it by other means and give the data directory that holds "
        f"{file.folder}/{file.name}. What was tried: {'; '.join(failures)}"
    )


def _unpacked(file: DataFile, url: str, cache: Path) -> Path:
    """The file out of the archive at `url`, which is kept for its other members, but only while it is sound."""
    import pooch

    path = cache / file.name
    archive = cache / url.rpartition("/")[2]
    if not path.is_file():
        pooch.retrieve(url, known_hash=None, fname=archive.name, path=cache)
        try:
            with zipfile.ZipFile(archive) as opened:
                path.write_bytes(opened.read(file.member))
        except (zipfile.BadZipFile, KeyError) as error:
            archive.unlink()
            raise ValueError(f"it is no zip archive that holds {file.member} ({error})") from error
    try:
        check_sha256(path, file)
    except ValueError:
        path.unlink()
        archive.unlink(missing_ok=True)
        raise
    return path
