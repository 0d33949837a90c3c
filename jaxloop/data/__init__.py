"""The Epochs API: epochs of lazy batches."""

from jaxloop.data.epochs import Batches as Batches
from jaxloop.data.epochs import TrainingEpochs as TrainingEpochs
from jaxloop.data.epochs import in_batches as in_batches
