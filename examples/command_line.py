"""The flags that every example takes."""

import argparse
import os
from pathlib import Path
from typing import Literal


def make_parser(
    description: str | None, *, epochs: int | None, batch_size: int | None, csv: str, data: str | None = None
) -> argparse.ArgumentParser:
    """A parser with the flags of every example; a script adds its own.

    Args:
      description: what the example does, for `--help`.
      epochs, batch_size, csv: the values if the flags are left out. With None the script chooses.
      data: what the data directory must hold, such as "the folder mnist", if the example reads files.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--epochs", type=int, default=epochs, help="how many epochs to train")
    parser.add_argument("--batch-size", type=int, default=batch_size, help="examples in a batch")
    parser.add_argument(
        "--seed", type=int, default=0, help="the seed of the first weights and of the order of the samples"
    )
    parser.add_argument("--device", help="a platform such as cpu or gpu, or one of its devices such as gpu:1")
    parser.add_argument("--limit-batches", type=int, help="the most batches in each phase, to try it out")
    parser.add_argument("--csv", default=csv, help="the file for the statistics")
    parser.add_argument("--plot", help="a file for a plot of them, such as run/history.png; needs the extra `plot`")
    parser.add_argument(
        "--steps-per-dispatch", type=steps_per_dispatch, default="auto", help="steps in one program: auto, or a number"
    )
    parser.add_argument(
        "--explain", action="store_true", help="show the programs and what callbacks do, without training"
    )
    if data is not None:
        parser.add_argument(
            "--data-dir",
            type=Path,
            default=os.environ.get("JAXLOOP_DATA") or None,
            help=f"the directory that holds {data}, or $JAXLOOP_DATA; without both the files are downloaded",
        )
    return parser


def steps_per_dispatch(text: str) -> int | Literal["auto"]:
    """`"auto"`, or a whole number."""
    return "auto" if text == "auto" else int(text)
