"""Event files as TensorBoard's own reader has them."""

from pathlib import Path
from typing import Any

import pytest


def read(folder: Path) -> Any:
    """The accumulator of one folder, everything kept; skips the test where TensorBoard is not installed."""
    module = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    kept = dict.fromkeys((module.SCALARS, module.HISTOGRAMS, module.IMAGES, module.TENSORS), 0)
    accumulator = module.EventAccumulator(str(folder), size_guidance=kept)
    accumulator.Reload()
    return accumulator


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    """The scalars of one folder: by tag, the value at each step; each step must be there once."""
    accumulator = read(folder)
    found: dict[str, dict[int, float]] = {}
    for tag in accumulator.Tags()["scalars"]:
        events = accumulator.Scalars(tag)
        found[tag] = {event.step: event.value for event in events}
        assert len(found[tag]) == len(events), f"{tag} has a step twice"
    return found


def only_run(root: Path) -> Path:
    """The folder of the one run below `root`."""
    (run,) = root.iterdir()
    return run
