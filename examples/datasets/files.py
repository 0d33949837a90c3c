"""Files of data sets: found in a folder or downloaded, and never read before their checksum was."""

import hashlib
import zipfile
import zlib
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
    found = _sha256(path)
    if found != file.sha256:
        raise ValueError(
            f"{path}: expected sha256 {file.sha256}, found {found} over {path.stat().st_size} bytes. The file is cut "
            f"off or is not the published one; get it anew from {file.urls[0]}."
        )
    return path


def _downloaded(file: DataFile) -> Path:
    """The file in the user's cache, downloaded where it is not there yet."""
    try:
        import pooch
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{file.name}: to download it takes pooch, which is not installed. Run pip install '.[examples]', or "
            "give the folder of the data by --data-dir or JAXLOOP_DATA."
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
        f"{file.name}: it could not be downloaded. Get it by other means as {file.folder}/{file.name} in a folder, and "
        f"give that folder by --data-dir, or by the environment variable JAXLOOP_DATA. What was tried: "
        f"{'; '.join(failures)}"
    )


def _unpacked(file: DataFile, url: str, cache: Path) -> Path:
    """The member of the archive at `url`, in the user's cache; the archive is kept for its other members.

    Raises:
      OSError, ValueError: no connection, no such archive, or another checksum; then neither is kept.
    """
    import pooch

    path, archive = cache / file.name, cache / url.rpartition("/")[2]
    if path.is_file() and _sha256(path) == file.sha256:
        return path
    pooch.retrieve(url, known_hash=None, fname=archive.name, path=cache)
    try:
        with zipfile.ZipFile(archive) as opened:
            content = opened.read(file.member)
    except (zipfile.BadZipFile, zlib.error, KeyError) as error:
        archive.unlink()
        raise ValueError(f"it is no zip archive that holds {file.member} ({error})") from error
    found = hashlib.sha256(content).hexdigest()
    if found != file.sha256:
        archive.unlink()
        raise ValueError(f"expected sha256 {file.sha256} of {file.member}, found {found} over {len(content)} bytes")
    path.write_bytes(content)
    return path


def _sha256(path: Path) -> str:
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
