"""Metrics: pure accumulators over a phase, which are exact under weights and padding."""

from jaxloop.metrics.classification import Accuracy as Accuracy
from jaxloop.metrics.classification import TopKAccuracy as TopKAccuracy
from jaxloop.metrics.confusion import ConfusionMatrix as ConfusionMatrix
from jaxloop.metrics.confusion import MatthewsCorrelationCoefficient as MatthewsCorrelationCoefficient
from jaxloop.metrics.f_scores import F1 as F1
from jaxloop.metrics.f_scores import Precision as Precision
from jaxloop.metrics.f_scores import Recall as Recall
from jaxloop.metrics.foreign import from_metrax as from_metrax
from jaxloop.metrics.means import Loss as Loss
from jaxloop.metrics.means import Mean as Mean
from jaxloop.metrics.means import Perplexity as Perplexity
from jaxloop.metrics.means import add_to_mean as add_to_mean
from jaxloop.metrics.means import empty_mean as empty_mean
from jaxloop.metrics.means import mean_of as mean_of
from jaxloop.metrics.metric import Metric as Metric
from jaxloop.metrics.metric import check_name as check_name
from jaxloop.metrics.metric import is_scalar as is_scalar
from jaxloop.metrics.metric import less_is_better as less_is_better
from jaxloop.metrics.metric import resolve as resolve
from jaxloop.metrics.ranking import AUC as AUC
from jaxloop.metrics.ranking import AveragePrecision as AveragePrecision
from jaxloop.metrics.regression import R2 as R2
from jaxloop.metrics.regression import MeanAbsoluteError as MeanAbsoluteError
from jaxloop.metrics.regression import MeanSquaredError as MeanSquaredError
from jaxloop.metrics.regression import RootMeanSquaredError as RootMeanSquaredError

__all__ = [
    "AUC",
    "F1",
    "R2",
    "Accuracy",
    "AveragePrecision",
    "ConfusionMatrix",
    "Loss",
    "MatthewsCorrelationCoefficient",
    "Mean",
    "MeanAbsoluteError",
    "MeanSquaredError",
    "Metric",
    "Perplexity",
    "Precision",
    "Recall",
    "RootMeanSquaredError",
    "TopKAccuracy",
    "add_to_mean",
    "empty_mean",
    "from_metrax",
    "mean_of",
]


def __dir__() -> list[str]:
    return sorted(__all__)
