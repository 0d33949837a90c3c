"""A task on which the learning rate finder is tried."""

import numpy as np

import jaxloop as jl
from tests import small

STEPS = 40


def samples(count=48):
    """Examples of three classes that a linear model tells apart."""
    images, _ = small.samples(count, seed=3)
    return images, images[:, :3].argmax(axis=1).astype(np.int32)


def training_loop(**changes):
    return small.training_loop(**({"training": jl.TrainingEpochs(samples(), batch_size=8)} | changes))


def find(training_loop, given=None, **options):
    options = {"start_rate": 1e-3, "end_rate": 1e3, "steps": STEPS} | options
    return jl.find_learning_rate(training_loop, small.model() if given is None else given, **options)


def batches_of(epochs, count):
    return [batch for epoch in epochs[:count] for batch in epoch]
