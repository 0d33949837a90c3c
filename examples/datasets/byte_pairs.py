"""GPT-2's tokens: pairs of bytes that are merged by rules. Every text has tokens, and can be recovered from them."""

from pathlib import Path
from typing import TYPE_CHECKING

from .files import DataFile, checked_path

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_ADDRESSES = (
    "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/",
    "https://openaipublic.blob.core.windows.net/gpt-2/models/124M/",
)
_SHA256 = {
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
}
FILES = tuple(
    DataFile("vocab", name, sha256, tuple(address + name for address in _ADDRESSES)) for name, sha256 in _SHA256.items()
)


def load_byte_pairs(data_dir: Path | None = None) -> "Tokenizer":
    """The tokenizer of GPT-2, as it was published: 50,257 tokens.

    Args:
      data_dir: the directory that holds the folder `vocab` with encoder.json and vocab.bpe. None downloads them once,
        into the user's cache.

    Raises:
      ModuleNotFoundError: tokenizers is not installed.
      And the exceptions of `files.checked_path`.

    Example:
      >>> tokenizer = load_byte_pairs()
      >>> tokenizer.decode(tokenizer.encode("Hello world").ids)
      'Hello world'
    """
    vocabulary, merges = (checked_path(file, data_dir) for file in FILES)
    return make_byte_pairs(vocabulary, merges)


def make_byte_pairs(vocabulary: Path, merges: Path) -> "Tokenizer":
    """The tokenizer of these files, which adds no space before the text.

    Args:
      vocabulary: a JSON file with the number of each token.
      merges: a file with a header and then one pair per line. The first pair is merged first.
    """
    try:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "Cutting texts into tokens needs tokenizers, which is not installed. Run pip install '.[examples]'."
        ) from error
    tokenizer = Tokenizer(models.BPE.from_file(str(vocabulary), str(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer
