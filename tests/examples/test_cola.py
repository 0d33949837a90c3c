"""CoLA: its format on files made by hand, and the real files."""

import numpy as np
import pytest

from examples.datasets.cola import load_cola, read_sentences


def written(folder, text: str):
    path = folder / "some.tsv"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("end", ["\n", ""], ids=["with a newline", "without"])
def test_sentences_and_labels_are_read_whether_the_last_line_has_an_end_or_not(tmp_path, end):
    texts, labels = read_sentences(
        written(tmp_path, f"gj04\t1\t\tThe sailors rode.\nr-67\t0\t*\tWho did you “say”?{end}")
    )
    assert texts == ["The sailors rode.", "Who did you “say”?"]
    assert labels.tolist() == [1, 0]
    assert labels.dtype == np.int32


@pytest.mark.parametrize(
    "line", ["ad03\t1\tShe left.", "ad03\t2\t\tShe left.", "sentence\tlabel", ""], ids=["3", "label", "header", "empty"]
)
def test_a_line_of_another_form_is_refused_by_its_number(tmp_path, line):
    with pytest.raises(ValueError, match=r"some\.tsv, line 2: a line must be source, label 0 or 1, mark and sentence"):
        read_sentences(written(tmp_path, f"ad03\t1\t\tShe left.\n{line}\nad03\t1\t\tShe left.\n"))


def test_the_real_files_have_the_published_number_of_sentences_of_each_label(cola_dir):
    parts = load_cola(cola_dir)
    assert [len(part.texts) for part in parts] == [8551, 527, 516]
    assert [np.bincount(part.labels).tolist() for part in parts] == [[2528, 6023], [162, 365], [162, 354]]
    assert parts.training.texts[0] == "Our friends won't buy this analysis, let alone the next one we propose."
    assert parts.out_of_domain.texts[-1] == "John talked to Bill about himself."
