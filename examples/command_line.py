"""The flags that every example takes, and what they mean for a fit."""

import argparse
import os
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import jaxloop as jl


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
    parser.add_argument(
        "--checkpoint-dir",
        type=Path,
        help="a folder to save the run in; the same command, after an interruption, goes on from there",
    )
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


def checkpoints(directory: Path | None, every: Literal["epoch"] | timedelta = "epoch") -> list[jl.callbacks.Checkpoint]:
    """The callback that saves the run in the folder of `--checkpoint-dir`; none if that is not given."""
    return [] if directory is None else [jl.callbacks.Checkpoint(directory, every=every)]


def fit_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the flags of every example mean for `fit`: device, seed, limit, and what it goes on from."""
    return {
        "on": arguments.device,
        "seed": arguments.seed,
        "limit_batches": arguments.limit_batches,
        "resume_from": arguments.checkpoint_dir,
    }


def steps_per_dispatch(text: str) -> int | Literal["auto"]:
    """`"auto"`, or a whole number."""
    return "auto" if text == "auto" else int(text)
