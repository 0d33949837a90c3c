"""Ready-made callbacks: functions that make a compiled one, and classes that run on the host."""

from jaxloop.callbacks.checkpoint import Checkpoint as Checkpoint
from jaxloop.callbacks.clipping import clip_by_global_norm as clip_by_global_norm
from jaxloop.callbacks.csv_logger import CSVLogger as CSVLogger
from jaxloop.callbacks.ema import ema as ema
from jaxloop.callbacks.image_saver import ImageSaver as ImageSaver
from jaxloop.callbacks.mlflow_logger import MLflowLogger as MLflowLogger
from jaxloop.callbacks.non_finite import stop_on_non_finite as stop_on_non_finite
from jaxloop.callbacks.patience import early_stopping as early_stopping
from jaxloop.callbacks.patience import reduce_on_plateau as reduce_on_plateau
from jaxloop.callbacks.profiler import Profiler as Profiler
from jaxloop.callbacks.progress_bar import ProgressBar as ProgressBar
from jaxloop.callbacks.scheduling import hyperparameter_scheduler as hyperparameter_scheduler
from jaxloop.callbacks.scheduling import learning_rate_scheduler as learning_rate_scheduler
from jaxloop.callbacks.tensorboard_logger import TensorBoardLogger as TensorBoardLogger
from jaxloop.callbacks.time_limit import stop_after as stop_after
from jaxloop.callbacks.wandb_logger import WandbLogger as WandbLogger
from jaxloop.callbacks.watchdog import Watchdog as Watchdog

__all__ = [
    "CSVLogger",
    "Checkpoint",
    "ImageSaver",
    "MLflowLogger",
    "Profiler",
    "ProgressBar",
    "TensorBoardLogger",
    "WandbLogger",
    "Watchdog",
    "clip_by_global_norm",
    "early_stopping",
    "ema",
    "hyperparameter_scheduler",
    "learning_rate_scheduler",
    "reduce_on_plateau",
    "stop_after",
    "stop_on_non_finite",
]


def __dir__() -> list[str]:
    return sorted(__all__)
