"""jaxloop: training loops for JAX whose state is a value and whose callbacks are compiled into the step."""

from jaxloop import callbacks as callbacks
from jaxloop import losses as losses
from jaxloop import metrics as metrics
from jaxloop.benchmark import benchmark as benchmark
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
from jaxloop.events import Event as Event
from jaxloop.events import Phase as Phase
from jaxloop.events import Plan as Plan
from jaxloop.events import Scope as Scope
from jaxloop.history import History as History
from jaxloop.loop import Loop as Loop
from jaxloop.measurement import Measurement as Measurement
from jaxloop.model import Model as Model
from jaxloop.placement import default_device as default_device
from jaxloop.training_loop import TrainingLoop as TrainingLoop
from jaxloop.views import Columns as Columns
from jaxloop.views import LoopView as LoopView
