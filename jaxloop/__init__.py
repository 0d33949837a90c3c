"""jaxloop: training loops for JAX whose state is a value and whose callbacks are compiled into the step.

Begin with `TrainingLoop` and its `fit`. It takes data (arrays, `TrainingEpochs`, `in_batches`, `repeat`), a model of
flax, equinox or haiku (see `Model`), an optimizer of optax, a loss of `jaxloop.losses`, metrics of `jaxloop.metrics`,
and callbacks. A fit gives a `Loop`, the whole run as a value, and a `History`.

A callback is a function of a `Loop` and an `Event`; `on_host` declares one that runs in Python. Ready-made ones are in
`jaxloop.callbacks`. `make_schedule` and `jaxloop.schedules.shapes` (here as `shapes`) make schedules. `data_parallel`,
`fully_sharded` and `Placement` say on which devices a run lies. The guides in `examples/guides` show all of it.
"""

from importlib import metadata as _metadata

from jaxloop import callbacks as callbacks
from jaxloop import errors as errors
from jaxloop import losses as losses
from jaxloop import metrics as metrics
from jaxloop import testing as testing
from jaxloop.benchmark import benchmark as benchmark
from jaxloop.benchmarking.measurement import Measurement as Measurement
from jaxloop.callback import Callback as Callback
from jaxloop.callback import on_host as on_host
from jaxloop.compile_cache import compile_cache as compile_cache
from jaxloop.data import Batches as Batches
from jaxloop.data import NonuniformTrainingEpochs as NonuniformTrainingEpochs
from jaxloop.data import TrainingEpochs as TrainingEpochs
from jaxloop.data import collate as collate
from jaxloop.data import in_batches as in_batches
from jaxloop.data import pad_and_collate as pad_and_collate
from jaxloop.data import repeat as repeat
from jaxloop.data import steps as steps
from jaxloop.events import Event as Event
from jaxloop.events import Phase as Phase
from jaxloop.events import Plan as Plan
from jaxloop.events import Scope as Scope
from jaxloop.explain import explain as explain
from jaxloop.history import History as History
from jaxloop.largest_batch import largest_batch as largest_batch
from jaxloop.learning_rate_finder import LearningRateTest as LearningRateTest
from jaxloop.learning_rate_finder import find_learning_rate as find_learning_rate
from jaxloop.loop import Loop as Loop
from jaxloop.model import Model as Model
from jaxloop.placement import Placement as Placement
from jaxloop.placement import data_parallel as data_parallel
from jaxloop.placement import default_device as default_device
from jaxloop.placement import fully_sharded as fully_sharded
from jaxloop.restoring import restore as restore
from jaxloop.schedules import ScheduleSegment as ScheduleSegment
from jaxloop.schedules import make_schedule as make_schedule
from jaxloop.schedules import one_cycle as one_cycle
from jaxloop.schedules import shapes as shapes
from jaxloop.schedules import warmup_cosine as warmup_cosine
from jaxloop.topology import topology as topology
from jaxloop.training_loop import TrainingLoop as TrainingLoop
from jaxloop.views import Columns as Columns
from jaxloop.views import LoopView as LoopView
from jaxloop.weights import load_weights as load_weights
from jaxloop.weights import save_weights as save_weights
from jaxloop.weights import weights_in as weights_in

__all__ = [
    "Batches",
    "Callback",
    "Columns",
    "Event",
    "History",
    "LearningRateTest",
    "Loop",
    "LoopView",
    "Measurement",
    "Model",
    "NonuniformTrainingEpochs",
    "Phase",
    "Placement",
    "Plan",
    "ScheduleSegment",
    "Scope",
    "TrainingEpochs",
    "TrainingLoop",
    "benchmark",
    "callbacks",
    "collate",
    "compile_cache",
    "data_parallel",
    "default_device",
    "errors",
    "explain",
    "find_learning_rate",
    "fully_sharded",
    "in_batches",
    "largest_batch",
    "load_weights",
    "losses",
    "make_schedule",
    "metrics",
    "on_host",
    "one_cycle",
    "pad_and_collate",
    "repeat",
    "restore",
    "save_weights",
    "shapes",
    "steps",
    "testing",
    "topology",
    "warmup_cosine",
    "weights_in",
]


def __dir__() -> list[str]:
    return sorted(__all__)


try:
    __version__ = _metadata.version("jaxloop")
except _metadata.PackageNotFoundError:  # a copy of the sources that was not installed
    __version__ = "0+unknown"
