"""Pictures of many images: where each one stands, and what is said without Pillow."""

import importlib
import sys

import numpy as np
import pytest
from PIL import Image

from examples import pictures


def test_images_stand_in_rows_from_left_to_right(tmp_path):
    images = np.arange(6).repeat(6).reshape(6, 2, 3) / 255
    pictures.save_grid(tmp_path / "made/grid.png", images, columns=3)
    saved = np.asarray(Image.open(tmp_path / "made/grid.png"))
    assert saved.tolist() == [[0] * 3 + [1] * 3 + [2] * 3] * 2 + [[3] * 3 + [4] * 3 + [5] * 3] * 2


def test_one_is_white_and_halves_are_rounded(tmp_path):
    pictures.save_grid(tmp_path / "grid.png", np.array([[[0.0, 0.3, 1.0]]]), columns=1)
    assert np.asarray(Image.open(tmp_path / "grid.png")).tolist() == [[0, 76, 255]]


def test_the_absence_of_pillow_says_which_extra_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install '\.\[examples\]'"):
        importlib.reload(pictures)
