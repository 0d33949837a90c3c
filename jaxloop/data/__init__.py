"""The Epochs API: epochs of lazy batches."""

from jaxloop.data.batches import Batches as Batches
from jaxloop.data.batches import in_batches as in_batches
from jaxloop.data.collate import collate as collate
from jaxloop.data.collate import pad_and_collate as pad_and_collate
from jaxloop.data.epochs import TrainingEpochs as TrainingEpochs
from jaxloop.data.nonuniform import NonuniformTrainingEpochs as NonuniformTrainingEpochs
from jaxloop.data.repeat import one_epoch as one_epoch
from jaxloop.data.repeat import repeat as repeat
from jaxloop.data.steps import EmptyBatches as EmptyBatches
from jaxloop.data.steps import steps as steps

__all__ = [
    "Batches",
    "NonuniformTrainingEpochs",
    "TrainingEpochs",
    "collate",
    "in_batches",
    "pad_and_collate",
    "repeat",
    "steps",
]


def __dir__() -> list[str]:
    return sorted(__all__)
