"""CoLA: sentences from linguistics publications, each marked as acceptable English or not."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from .files import DataFile, checked_path

_ARCHIVE = "https://nyu-mll.github.io/CoLA/cola_public_1.1.zip"
_SHA256 = {
    "in_domain_train.tsv": "f320a10f92d3bce6b29152fde322a362eac39238e50d8de0c8815457fdf4fc12",
    "in_domain_dev.tsv": "77176f6a03faa5a1c4f23c69971fc1bff565931112fb65af47b2d6e24b7f42f7",
    "out_of_domain_dev.tsv": "201b9c57b2a20f1282242eec0ed8995729e3be19c29a46c047b3727338836c05",
}
FILES = tuple(
    DataFile("cola", name, sha256, (_ARCHIVE,), member=f"cola_public/raw/{name}") for name, sha256 in _SHA256.items()
)


class Sentences(NamedTuple):
    """Sentences, and for each the label: int32[sentences], 1 for acceptable, 0 for not."""

    texts: list[str]
    labels: np.ndarray


class Cola(NamedTuple):
    """The public parts: training sentences, and held-out sentences from the same sources and from others."""

    training: Sentences
    in_domain: Sentences
    out_of_domain: Sentences


def load_cola(data_dir: Path | None = None) -> Cola:
    """8,551 sentences for training, 527 held-out sentences from the same sources, and 516 from others.

    Warstadt, Singh, Bowman: Neural Network Acceptability Judgments, TACL 7, 2019.

    Args:
      data_dir: the directory that holds the folder `cola` with the three files. None downloads them once, into the
        user's cache.

    Raises:
      The exceptions of `files.checked_path`.
    """
    return Cola(*(read_sentences(checked_path(file, data_dir)) for file in FILES))


def read_sentences(path: Path) -> Sentences:
    """The sentences of a file with four columns, separated by tabs: source, label, the author's mark, sentence.

    Raises:
      ValueError: a line has another number of columns, or its label is neither 0 nor 1.
    """
    lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    rows = [line.split("\t") for line in lines]
    for number, row in enumerate(rows, start=1):
        if len(row) != 4 or row[1] not in ("0", "1"):
            raise ValueError(
                f"{path}, line {number}: a line must be source, label 0 or 1, mark and sentence with tabs between, "
                f"got {lines[number - 1]!r}. Give a file of CoLA in its raw form."
            )
    return Sentences([row[3] for row in rows], np.array([row[1] for row in rows], np.int32))
