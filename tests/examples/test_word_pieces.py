"""Word pieces: known tokens of the public vocabulary, on the real file and on one made by hand."""

import sys

import numpy as np
import pytest

from examples.datasets.word_pieces import load_word_pieces, word_pieces

TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "cat", "sat", "##s", "."]


@pytest.fixture
def vocabulary(tmp_path):
    """A vocabulary file of nine tokens."""
    return written(tmp_path, TOKENS)


def written(folder, tokens: list[str]):
    path = folder / "vocab.txt"
    path.write_text("".join(f"{token}\n" for token in tokens))
    return path


def test_words_are_split_into_the_longest_pieces_and_put_between_cls_and_sep(vocabulary):
    tokenize = word_pieces(vocabulary, vocabulary_size=9, max_length=10)
    cats, nothing = tokenize(["The cats sat.", ""])
    assert cats.tolist() == [2, 4, 5, 7, 6, 8, 3]
    assert nothing.tolist() == [2, 3]
    assert cats.dtype == np.int32


def test_capitals_and_accents_do_not_matter_and_unknown_words_are_one_token(vocabulary):
    tokenize = word_pieces(vocabulary, vocabulary_size=9, max_length=10)
    assert tokenize(["THE Cát zzz"])[0].tolist() == [2, 4, 5, 1, 3]


def test_a_longer_text_is_cut_and_still_ends_with_sep(vocabulary):
    tokenize = word_pieces(vocabulary, vocabulary_size=9, max_length=4)
    assert tokenize(["the cat sat the cat"])[0].tolist() == [2, 4, 5, 3]


def test_a_vocabulary_of_another_size_than_the_models_is_refused(vocabulary):
    with pytest.raises(ValueError, match=r"vocab\.txt: the vocabulary .* as the model, 30522, got 9\. Give the"):
        word_pieces(vocabulary, vocabulary_size=30522, max_length=10)


@pytest.mark.parametrize("tokens", [TOKENS[::-1], ["[PAD]", "<s>", "</s>"]], ids=["padding last", "no [CLS]"])
def test_a_vocabulary_of_another_kind_of_model_is_refused(tmp_path, tokens):
    with pytest.raises(ValueError, match=r"must begin with \[PAD\] and have \[CLS\], \[SEP\] and \[UNK\]"):
        word_pieces(written(tmp_path, tokens), vocabulary_size=len(tokens), max_length=10)


def test_the_public_vocabulary_has_its_known_tokens(vocab_dir):
    tokenize = load_word_pieces(vocab_dir, vocabulary_size=30522, max_length=48)
    # [CLS] the cat sat on the mat . [SEP], as the tokenizers of BERT everywhere number them
    assert tokenize(["The cat sat on the mat."])[0].tolist() == [101, 1996, 4937, 2938, 2006, 1996, 13523, 1012, 102]


def test_the_absence_of_tokenizers_says_which_extra_to_install(vocabulary, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install '\.\[examples\]'"):
        word_pieces(vocabulary, vocabulary_size=9, max_length=10)
