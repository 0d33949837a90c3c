"""WikiText-2: two million words of Wikipedia's best articles, published by Merity, Xiong, Bradbury and Socher."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .files import DataFile, checked_path

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Samples = tuple[np.ndarray, np.ndarray]

_ADDRESS = "https://raw.githubusercontent.com/pytorch/examples/main/word_language_model/data/wikitext-2/"
_SHA256 = {
    "train.txt": "9e9fa1ad55b1c2c95b08e37dd8e653f638fac2c6de904b79e813611eefbc985f",
    "valid.txt": "f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8",
}
FILES = tuple(DataFile("wikitext2", name, sha256, (_ADDRESS + name,)) for name, sha256 in _SHA256.items())


def load_wikitext2(tokenizer: "Tokenizer", length: int, data_dir: Path | None = None) -> tuple[Samples, Samples]:
    """The texts for training and for validation, each cut into sequences. This takes seconds.

    Args:
      tokenizer: cuts a text into tokens, a whole file at once.
      length: the length of a sequence.
      data_dir: the directory that holds the folder `wikitext2` with train.txt and valid.txt. None downloads them once,
        into the user's cache.

    Returns:
      Training and validation, each as `packed` gives it.

    Raises:
      ValueError: `length` is below 1, or longer than a text.
      And the exceptions of `files.checked_path`.
    """
    texts = [checked_path(file, data_dir).read_text(encoding="utf-8") for file in FILES]
    training, validation = (packed(tokenizer.encode_batch_fast([text])[0].ids, length) for text in texts)
    return training, validation


def packed(tokens: list[int], length: int) -> Samples:
    """Consecutive sequences of `tokens`, and for each of their tokens the token that follows.

    Tokens at the end that do not fill a sequence are left out.

    Args:
      tokens: the tokens of a text.
      length: the length of a sequence, at least 1.

    Returns:
      (inputs, targets), both int32[sequences, length].

    Example:
      >>> packed([5, 6, 7, 8, 9, 10], 2)
      (array([[5, 6], [7, 8]], dtype=int32), array([[6, 7], [8, 9]], dtype=int32))
    """
    if not 1 <= length < len(tokens):
        raise ValueError(
            f"packed: `length` must be at least 1 and below the number of tokens, {len(tokens)}, since each is "
            f"followed by another; got {length}."
        )
    count = (len(tokens) - 1) // length
    text = np.asarray(tokens[: count * length + 1], np.int32)
    return text[:-1].reshape(count, length), text[1:].reshape(count, length)
