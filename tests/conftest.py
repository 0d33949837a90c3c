"""What several tests start from: a tiny model, data, loops, the parts of a step, rows, and a terminal."""

import io
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis
import jax
import numpy as np
import optax
import pytest

from jaxloop.compile_cache import compile_cache
from jaxloop.events import Phase, Split
from jaxloop.loop import COUNTERS, Loop, new_loop
from jaxloop.losses import softmax_cross_entropy
from jaxloop.metrics import resolve
from jaxloop.model import Model
from jaxloop.step_spec import StepSpec
from jaxloop.views import Columns, LoopView

hypothesis.settings.register_profile("jaxloop", deadline=None, max_examples=50, database=None)
hypothesis.settings.load_profile("jaxloop")


@pytest.fixture(scope="session", autouse=True)
def _compiled_once() -> Iterator[None]:
    """Keeps what is compiled for as long as the tests run.

    Many tests start a fit of their own whose programs are, to the letter, those of another test. XLA compiles them
    once. All else happens each time: tracing, lowering, and the events by which compiles are counted. A folder that
    JAX_COMPILATION_CACHE_DIR names is used as it is, and JAX_ENABLE_COMPILATION_CACHE=false compiles each time.
    """
    if jax.config.jax_compilation_cache_dir is not None or not jax.config.jax_enable_compilation_cache:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="jaxloop-compiled-") as folder:  # one per worker: JAX locks nothing here
        compile_cache(folder)
        yield
        compile_cache(None)


def _linear(params: Any, state: Any, input: Any, *, training: bool, key: Any) -> tuple[Any, Any]:
    return input @ params["weight"] + params["bias"], state


@pytest.fixture(scope="session")
def linear_model() -> Callable[..., Model]:
    """Makes a linear classifier with random weights: `linear_model(inputs=3, classes=2, seed=0)`."""

    def make(inputs: int = 3, classes: int = 2, seed: int = 0) -> Model:
        weight = np.random.default_rng(seed).normal(size=(inputs, classes)).astype(np.float32)
        params = {"weight": jax.numpy.asarray(weight), "bias": jax.numpy.zeros(classes)}
        return Model(_linear, params, {})

    return make


@pytest.fixture(scope="session")
def samples() -> tuple[np.ndarray, np.ndarray]:
    """Twenty examples of two classes: float32[20, 3] and int32[20]."""
    inputs = np.random.default_rng(1).normal(size=(20, 3)).astype(np.float32)
    return inputs, (inputs.sum(axis=1) > 0).astype(np.int32)


@pytest.fixture
def loop(linear_model) -> Loop:
    """A loop at the start of its life: the linear model, plain SGD, key 0."""
    model = linear_model()
    return new_loop(model, optax.sgd(0.1).init(model.params), jax.random.key(0))


@pytest.fixture
def spec() -> Callable[..., StepSpec]:
    """Makes the parts of a step around the compiled callbacks it is given."""

    def make(
        *callbacks: Any, loss_fn: Any = softmax_cross_entropy, metrics: tuple[str, ...] = ("accuracy",)
    ) -> StepSpec:
        return StepSpec(optax.sgd(0.1), loss_fn, None, resolve(metrics), callbacks)

    return make


@pytest.fixture
def columns() -> Callable[..., Columns]:
    """Makes the rows of a dispatch as steps leave them, from the place of the first and a list per statistic."""

    def make(
        phase: Phase = Phase.TRAINING,
        *,
        epoch: int = 1,
        batch_index: int = 0,
        step: int = 0,
        batch_size: int = 4,
        **stats: list[float],
    ) -> Columns:
        count = len(next(iter(stats.values())))
        counters = {name: np.zeros(count, np.int32) for name in COUNTERS}
        counters["epoch"] += epoch
        counters["batch_index"] += np.arange(batch_index, batch_index + count, dtype=np.int32) + 1
        counters["step"] += np.arange(step, step + count, dtype=np.int32) + 1 if phase is Phase.TRAINING else step
        kept = {np.dtype("int32"), np.dtype("uint32")}
        values = counters | {
            name: np.array(
                column, getattr(column, "dtype", None) if getattr(column, "dtype", None) in kept else np.float32
            )
            for name, column in stats.items()
        }
        matrix = np.stack([np.ones(count, np.int32), *(column.view(np.int32) for column in values.values())], axis=1)
        places = {name: (place, column.dtype) for place, (name, column) in enumerate(values.items(), start=1)}
        return Columns(matrix, places, Split(phase, phase.value), batch_size)

    return make


@pytest.fixture
def view() -> Callable[..., LoopView]:
    """Makes what a host callback that reads statistics is shown: counters 0 and no statistics but those given."""

    def make(phase: Phase | None = None, stats: dict[str, float] | None = None, **counters: int) -> LoopView:
        values = (
            dict.fromkeys(COUNTERS, 0)
            | counters
            | {"stats": stats or {}, "phase": phase, "validation_set": None, "stop": 0}
        )
        return LoopView(values, reads="stats", name="test", cancel=lambda scope: None)

    return make


@pytest.fixture
def terminal() -> io.StringIO:
    """A stream that says it is a terminal."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    return Terminal()


class Clock:
    """A clock that a test sets."""

    now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock_of(monkeypatch):
    """Puts a clock that the test sets in place of a module's `time`."""

    def replace_time(module) -> Clock:
        clock = Clock()
        monkeypatch.setattr(module, "time", clock)
        return clock

    return replace_time
