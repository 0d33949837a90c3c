"""What makes data the same data."""

import numpy as np

from jaxloop.data import TrainingEpochs
from jaxloop.feeding.identity import differences, identity_of


def test_what_differs_is_told_in_words() -> None:
    samples = np.zeros((64, 2)), np.zeros(64)
    saved, now = identity_of(TrainingEpochs(samples, 32)), identity_of(TrainingEpochs(samples, 64, seed=3))
    assert differences(saved, now) == [
        "batch_size: the checkpoint's run had 32, this one has 64",
        "seed: the checkpoint's run had 0, this one has 3",
    ]
    assert differences(saved, saved) == []
