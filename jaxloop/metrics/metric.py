"""The protocol of a metric, and the metrics that can be chosen by name."""

import functools
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, get_args, runtime_checkable

import jax

from jaxloop.brief import brief
from jaxloop.events import Phase
from jaxloop.metrics.classification import Accuracy, TopKAccuracy
from jaxloop.metrics.confusion import ConfusionMatrix, MatthewsCorrelationCoefficient
from jaxloop.metrics.f_scores import F1, Average, Precision, Recall
from jaxloop.metrics.means import Loss, Perplexity
from jaxloop.metrics.ranking import AUC, AveragePrecision
from jaxloop.metrics.regression import R2, MeanAbsoluteError, MeanSquaredError, RootMeanSquaredError
from jaxloop.output_losses import OutputLosses
from jaxloop.outputs import name_by_output


@runtime_checkable
class Metric(Protocol):
    """A metric: a small frozen object with a name and three pure functions.

    `init()` makes the empty accumulator, a PyTree of arrays. `update` adds one batch. `compute` gives the statistic of
    everything that was added: float[], or int32[] for a count. If nothing was added, it should give
    `jaxloop.measured.unmeasured("float32")`, since any other NaN means that the statistic has diverged.

    `update` gets these keywords from the step: `output` and `target`, PyTrees; `loss`, what the loss function gave: one
    per example or token, or a scalar; and `weight`, of shape (batch,) or (batch, tokens), or None. Examples and tokens
    of weight 0 are padding and must not count.

    Two more things may be there:

    - `bind(output, target)` gives the metric to use in its place, once shapes and dtypes of the first batch are known,
      as `jax.ShapeDtypeStruct`s. So the accumulator of a metric can depend on the number of classes. It is called
      before the first step, and before `init`. What it gives for equal shapes should be equal, as frozen dataclasses
      are, so that programs are shared.
    - `scalar = False` says that what it measures is no statistic, such as a matrix. It is in no row, log or history,
      and measured only in validation. `compute` is then called by `evaluate`, with NumPy arrays, and may give anything.

    Example:
      >>> @dataclass(frozen=True)
      ... class Largest:
      ...     name = "largest_output"
      ...
      ...     def init(self):
      ...         return np.float32(-np.inf)
      ...
      ...     def update(self, state, *, output, target, loss, weight):
      ...         return jnp.maximum(state, jnp.max(output))  # padding is a copy of a real example
      ...
      ...     def compute(self, state):
      ...         return state
      >>> training_loop = jl.TrainingLoop(epochs, optimizer=optimizer, loss_fn=loss_fn, metrics=[Largest()])
      >>> loop, history = training_loop.fit(model, epochs=1)
    """

    @property
    def name(self) -> str: ...

    def init(self) -> Any: ...

    def update(self, state: Any, *, output: Any, target: Any, loss: Any, weight: Any) -> Any: ...

    def compute(self, state: Any) -> jax.Array: ...


_AVERAGED: list[Any] = [Precision, Recall, F1]
_CLASSES: list[Callable[..., Any]] = [
    *(Accuracy, MatthewsCorrelationCoefficient, ConfusionMatrix, AUC, AveragePrecision),
    *(functools.partial(kind, average) for average in get_args(Average) for kind in _AVERAGED),
    *(MeanAbsoluteError, MeanSquaredError, RootMeanSquaredError, R2),
]
#: What makes each metric that can be measured of one output; it takes `output`.
_BY_NAME: dict[str, Callable[..., Metric]] = {make().name: make for make in _CLASSES}
_OF_LOSSES: list[Any] = [Loss, Perplexity]
_POSITION = ("step", "epoch", "epoch_index", "epoch_count", "batch", "batch_index", "batch_count")
_ROW_NAMES = frozenset((*_POSITION, "phase", "stop", "counted", "seconds", "examples_per_second"))


def check_name(where: str, name: str) -> None:
    """Refuses a name for a statistic that rows and logs use for something else.

    Raises:
      TypeError: it is no name.
      ValueError: the name is used.
    """
    if not (isinstance(name, str) and name):
        raise TypeError(f"{where}: a name must be a string, such as 'gradient_norm', got {name!r}.")
    if name in _ROW_NAMES:
        raise ValueError(f"{where}: {name!r} is a column that every log has; choose another name.")


def less_is_better(name: str) -> bool | None:
    """Whether a smaller value of a statistic is better, as its name tells; None if the name does not tell."""
    less, more = (any(word in name for word in words) for words in _DIRECTIONS)
    more = more or not (less or _MORE_AS_WORDS.isdisjoint(name.split("_")))
    return None if less == more else less


_DIRECTIONS = (("loss", "error", "perplexity"), ("accuracy", "matthews"))
_MORE_AS_WORDS = frozenset(("precision", "recall", "f1", "auc", "r2"))


def is_scalar(metric: Metric) -> bool:
    """Whether what a metric measures is a statistic, which rows and logs carry."""
    return getattr(metric, "scalar", True)


def resolve(metrics: Sequence[str | Metric], loss_fn: Any = None) -> tuple[Metric, ...]:
    """The metrics that are named or given, with `Loss` as the first, and the loss of each output after it.

    Args:
      metrics: names and metrics. `"digit_accuracy"` is a name where `loss_fn` has a loss for the output `"digit"`.
      loss_fn: of the training loop; of interest if it is one of several outputs.

    Raises:
      ValueError: a name is not known, or two metrics have the same name, or logs use it for something else.
      TypeError: an object is not a `Metric`, or `metrics` is a single name, not a list.
    """
    if isinstance(metrics, str) or not isinstance(metrics, Iterable):
        raise TypeError(f"metrics: expected a list of names or metrics, got {brief(metrics)}. Put it in brackets.")
    by_name = _by_name(loss_fn)
    of_outputs = [by_name[name_by_output("loss", part.key)]() for part in _parts(loss_fn)]
    found: list[Metric] = []
    for metric in (Loss(), *of_outputs, *(_one(given, by_name) for given in metrics)):
        if isinstance(metric, Loss) and metric in found:
            continue
        check_name("metrics", metric.name)
        if any(metric.name == other.name for other in found):
            raise ValueError(f"metrics: two metrics are named {metric.name!r}; give one another `name`.")
        found.append(metric)
    _check_phases([metric.name for metric in found])
    return tuple(found)


def _parts(loss_fn: Any) -> tuple[Any, ...]:
    return loss_fn.parts if isinstance(loss_fn, OutputLosses) else ()


def _by_name(loss_fn: Any) -> dict[str, Callable[..., Metric]]:
    """What makes each metric that has a name, those of outputs included. Of `top<k>` only k = 5 is there."""
    of_output: dict[str, Callable[..., Metric]] = _BY_NAME | {"top5_accuracy": TopKAccuracy}
    found: dict[str, Callable[..., Metric]] = {}
    for part in _parts(loss_fn):
        for make in _OF_LOSSES:
            name = name_by_output(make().name, part.key)
            found[name] = functools.partial(make, name, part)
    for key in [*(part.key for part in _parts(loss_fn)), *getattr(loss_fn, "without", ())]:
        found |= {name_by_output(name, key): functools.partial(make, output=key) for name, make in of_output.items()}
    known: dict[str, Callable[..., Metric]] = {"accuracy": Accuracy, "loss": Loss}
    return known | _BY_NAME | found | {"perplexity": Perplexity, "top5_accuracy": TopKAccuracy}


def _one(given: str | Metric, by_name: dict[str, Callable[[], Metric]]) -> Metric:
    if isinstance(given, str):
        if given in by_name:
            return by_name[given]()
        top = re.fullmatch(r"(.*?)top([1-9]\d*)_accuracy", given)
        if top and f"{top[1]}top5_accuracy" in by_name:
            made: Any = by_name[f"{top[1]}top5_accuracy"]
            return made(k=int(top[2]))
        known = ", ".join(by_name)
        raise ValueError(
            f"metrics: {given!r} is not known.{_meant(given)} Known by name: {known} (and any other top<k>). Of one of "
            'several outputs give an object, as jaxloop.metrics.Accuracy(output="digit").'
        )
    if not isinstance(given, Metric) or isinstance(given, type):
        fix = f"Call it: {given.__name__}()." if isinstance(given, type) else 'Write jaxloop.metrics.Mean(fn, "name").'
        raise TypeError(
            f"metrics: each must be a name or have `name`, `init`, `update` and `compute`, got {brief(given)}. {fix}"
        )
    return given


def _meant(given: str) -> str:
    """What to write for a name that another library has for a metric; "" if it is none of them."""
    ours = _ELSEWHERE.get(given.lower())
    return f" Write {ours!r}." if ours else ""


_ELSEWHERE = {
    "acc": "accuracy",
    "sparse_categorical_accuracy": "accuracy",
    "categorical_accuracy": "accuracy",
    "binary_accuracy": "accuracy",
    "top_k_categorical_accuracy": "top5_accuracy",
    "sparse_top_k_categorical_accuracy": "top5_accuracy",
    "top_5_accuracy": "top5_accuracy",
    "mae": "mean_absolute_error",
    "mse": "mean_squared_error",
    "rmse": "root_mean_squared_error",
    "r2_score": "r2",
    "mcc": "matthews_correlation_coefficient",
    "f1_score": "f1",
    "f1score": "f1",
    "f1_macro": "macro_f1",
    "auroc": "auc",
    "roc_auc": "auc",
    "ap": "average_precision",
}


def _check_phases(names: Sequence[str]) -> None:
    """Refuses a metric that is named in training as another one is in validation.

    Raises:
      ValueError: there are two such metrics.
    """
    taken = {Phase.VALIDATION.stat(name): name for name in names}
    for name in names:
        if name in taken:
            raise ValueError(
                f"metrics: in validation {taken[name]!r} is the statistic {name!r}, and so is another one in training, "
                "as of an output named 'validation'. Give the output, or the metric, another name."
            )
