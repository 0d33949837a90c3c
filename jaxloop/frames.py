"""Whose code a frame runs, by the beginning of its file's name."""

import contextlib
import os
from pathlib import Path

import jax

OURS = (f"{Path(__file__).parent}{os.sep}",)
OF_JAX = (f"{Path(jax.__file__).parent}{os.sep}", contextlib.__file__)
