"""Ready-made callbacks: functions that make a compiled one, and classes that run on the host."""

from jaxloop.callbacks.clipping import clip_by_global_norm as clip_by_global_norm
from jaxloop.callbacks.csv_logger import CSVLogger as CSVLogger
from jaxloop.callbacks.profiler import Profiler as Profiler
from jaxloop.callbacks.progress_bar import ProgressBar as ProgressBar
