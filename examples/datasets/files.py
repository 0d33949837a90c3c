"""Files of data sets: found in a folder or downloaded. No file is used before its checksum is verified."""

import hashlib
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class DataFile:
    """A published file.

    Attributes:
      folder: the folder of the data set, below the data directory.
      name: the name of the file in that folder.
      sha256: the checksum of its bytes, in hexadecimal.
      urls: the addresses of the file, which are tried in turn.
      member: the name of the file in a zip archive, if the urls are those of an archive; empty if they are those of the
        file itself.
    """

    folder: str
    name: str
    sha256: str
    urls: tuple[str, ...]
    member: str = ""


def checked_path(file: DataFile, data_dir: Path | None = None) -> Path:
    """The path of `file` on this machine, after its checksum is verified.

    Args:
      file: the file.
      data_dir: the directory that holds `<folder>/<name>`. None downloads the file once, into the user's cache.

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
    """The path of the file in the user's cache. It is downloaded if it is not there yet."""
    try:
        import pooch
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{file.name}: downloading it needs pooch, which is not installed. Run pip install '.[examples]', or "
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
    """The path of the archive's member in the user's cache. The archive is kept too, for its other members.

    Raises:
      OSError, ValueError: there is no connection, no such archive, or another checksum. Then neither is kept.
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
