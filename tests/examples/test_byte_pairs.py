"""Pairs of bytes: by a vocabulary made by hand, and by the published one."""

import json
import sys

import pytest

from examples.datasets.byte_pairs import load_byte_pairs, make_byte_pairs

TEXT = " = Größe = \n 1 @,@ 000 \u4eca\u65e5 \U0001f600  <unk>\n\n"


def test_pairs_are_merged_in_the_order_of_the_rules_and_words_carry_their_space(tmp_path):
    vocabulary = {token: number for number, token in enumerate(["a", "b", "c", "Ġ", "ab", "bc", "Ġab"])}
    (tmp_path / "encoder.json").write_text(json.dumps(vocabulary))
    (tmp_path / "vocab.bpe").write_text("#version: 0.2\na b\nb c\nĠ ab\n", encoding="utf-8")
    tokenizer = make_byte_pairs(tmp_path / "encoder.json", tmp_path / "vocab.bpe")
    assert tokenizer.encode("abc ab bc").ids == [4, 2, 6, 3, 5]
    assert tokenizer.decode([4, 2, 6, 3, 5]) == "abc ab bc"


def test_the_published_tokens_have_their_published_numbers(text_dir):
    tokenizer = load_byte_pairs(text_dir)
    assert tokenizer.get_vocab_size() == 50257
    assert tokenizer.token_to_id("<|endoftext|>") == 50256
    assert tokenizer.encode("Hello, world!").ids == [15496, 11, 995, 0]
    assert tokenizer.encode("The quick brown fox").ids == [464, 2068, 7586, 21831]


def test_every_text_comes_back_from_its_tokens(text_dir):
    tokenizer = load_byte_pairs(text_dir)
    assert tokenizer.decode(tokenizer.encode(TEXT).ids) == TEXT


def test_tokens_are_those_of_transformers(text_dir):
    transformers = pytest.importorskip("transformers")
    reference = transformers.GPT2Tokenizer(str(text_dir / "vocab/encoder.json"), str(text_dir / "vocab/vocab.bpe"))
    article = (text_dir / "wikitext2/valid.txt").read_text(encoding="utf-8")[:20_000]
    for text in (TEXT, article):
        assert load_byte_pairs(text_dir).encode(text).ids == reference.encode(text)


def test_a_folder_without_the_vocabulary_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"must have a folder 'vocab' with encoder\.json"):
        load_byte_pairs(tmp_path)


def test_the_absence_of_tokenizers_says_which_extra_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install '\.\[examples\]'"):
        make_byte_pairs(tmp_path, tmp_path)
