"""WikiText-2: how tokens are packed, and the real files."""

import numpy as np
import pytest

from examples.datasets.byte_pairs import load_byte_pairs
from examples.datasets.files import checked_path
from examples.datasets.wikitext2 import FILES, load_wikitext2, packed


def test_sequences_lie_end_to_end_and_targets_are_what_follows():
    inputs, targets = packed([5, 6, 7, 8, 9, 10], 2)
    assert inputs.tolist() == [[5, 6], [7, 8]]
    assert targets.tolist() == [[6, 7], [8, 9]]
    assert (inputs.dtype, targets.dtype) == (np.int32, np.int32)


def test_the_last_token_is_a_target_where_it_fills_a_sequence():
    _, targets = packed([5, 6, 7, 8, 9], 2)
    assert targets.tolist() == [[6, 7], [8, 9]]


@pytest.mark.parametrize("length", [0, 3])
def test_a_length_that_no_sequence_has_is_refused(length):
    with pytest.raises(ValueError, match=rf"below the number of tokens, 3.*got {length}\."):
        packed([5, 6, 7], length)


def test_the_real_files_have_their_published_checksums(text_dir):
    assert [checked_path(file, text_dir).name for file in FILES] == ["train.txt", "valid.txt"]


@pytest.mark.slow
def test_the_texts_are_cut_into_sequences_that_read_as_the_files_do(text_dir):
    tokenizer = load_byte_pairs(text_dir)
    (training, _), (inputs, targets) = load_wikitext2(tokenizer, 1024, text_dir)
    assert training.shape == (2448382 // 1024, 1024)
    assert inputs.shape == targets.shape == (258659 // 1024, 1024)
    text = (text_dir / "wikitext2/valid.txt").read_text(encoding="utf-8")
    assert text.startswith(tokenizer.decode(inputs[:2].ravel()))
    np.testing.assert_array_equal(inputs.ravel()[1:], targets.ravel()[:-1])


def test_a_truncated_file_is_refused(text_dir, tmp_path):
    (tmp_path / "wikitext2").mkdir()
    (tmp_path / "wikitext2/train.txt").write_bytes((text_dir / "wikitext2/train.txt").read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"train\.txt: expected sha256 9e9fa1ad.* over 10797147 bytes"):
        load_wikitext2(load_byte_pairs(text_dir), 128, tmp_path)
