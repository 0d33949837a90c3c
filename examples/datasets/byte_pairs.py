"""GPT-2's tokens: pairs of bytes merged by rule, so that every text has tokens and comes back from them."""

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
      data_dir: what holds the folder `vocab` with encoder.json and vocab.bpe; None downloads them into the user's
        cache, once.

    Raises:
      ModuleNotFoundError: tokenizers is not installed.
      What `files.checked_path` raises.

    Example:
      >>> tokenizer = load_byte_pairs()
      >>> tokenizer.decode(tokenizer.encode("Hello world").ids)
      'Hello world'
    """
    vocabulary, merges = (checked_path(file, data_dir) for file in FILES)
    return make_byte_pairs(vocabulary, merges)


def make_byte_pairs(vocabulary: Path, merges: Path) -> "Tokenizer":
    """The tokenizer of these files, without a space before the text.

    Args:
      vocabulary: JSON, each token with its number.
      merges: one pair a line behind a header, the first to be merged first.
    """
    try:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "To cut texts into tokens takes tokenizers, which is not installed. Run pip install '.[examples]'."
        ) from error
    tokenizer = Tokenizer(models.BPE.from_file(str(vocabulary), str(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer
