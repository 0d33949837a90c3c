"""Word pieces: the vocabulary of the public uncased BERT, and the tokenizer that splits texts into its tokens."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from .files import DataFile, checked_path

FILE = DataFile(
    "vocab",
    "vocab.txt",
    "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
    (
        "https://huggingface.co/google-bert/bert-base-uncased/resolve/main/vocab.txt",
        "https://s3.amazonaws.com/models.huggingface.co/bert/bert-base-uncased-vocab.txt",
    ),
)

Tokenizer = Callable[[Sequence[str]], list[np.ndarray]]


def load_word_pieces(data_dir: Path | None = None, *, vocabulary_size: int, max_length: int) -> Tokenizer:
    """The tokenizer of the public uncased BERT, 30,522 tokens; see `word_pieces`.

    Args:
      data_dir: the directory that holds the folder `vocab` with vocab.txt. None downloads it once, into the user's
        cache.

    Raises:
      The exceptions of `files.checked_path` and `word_pieces`.
    """
    return word_pieces(checked_path(FILE, data_dir), vocabulary_size=vocabulary_size, max_length=max_length)


def word_pieces(vocabulary: Path, *, vocabulary_size: int, max_length: int) -> Tokenizer:
    """A function that gives the tokens of texts, each as int32[length], with `[CLS]` before and `[SEP]` after them.

    It makes letters lower case, and removes their accents.

    Args:
      vocabulary: a file with one token per line.
      vocabulary_size: the number of tokens that the model has.
      max_length: longer texts are cut to this number of tokens, including `[CLS]` and `[SEP]`.

    Raises:
      ValueError: the file has another number of tokens than the model, or is not a vocabulary of BERT.
      ModuleNotFoundError: tokenizers is not installed.
    """
    try:
        from tokenizers import BertWordPieceTokenizer
        from tokenizers.models import WordPiece
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "word_pieces: splitting texts needs tokenizers, which is not installed. Run pip install '.[examples]'."
        ) from error
    tokens = WordPiece.read_file(str(vocabulary))
    if len(tokens) != vocabulary_size:
        raise ValueError(
            f"{vocabulary}: the vocabulary must have as many tokens as the model, {vocabulary_size}, got "
            f"{len(tokens)}. Give the vocabulary that the model was trained with, or a model of that size."
        )
    if tokens.get("[PAD]") != 0 or not {"[CLS]", "[SEP]", "[UNK]"} <= tokens.keys():
        raise ValueError(
            f"{vocabulary}: the vocabulary must begin with [PAD] and have [CLS], [SEP] and [UNK], got "
            f"{', '.join(list(tokens)[:4])}. Give a vocabulary of BERT."
        )
    tokenizer = BertWordPieceTokenizer(tokens, lowercase=True)
    tokenizer.enable_truncation(max_length)
    return lambda texts: [np.array(encoding.ids, np.int32) for encoding in tokenizer.encode_batch(list(texts))]
