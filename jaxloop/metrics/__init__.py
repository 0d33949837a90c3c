"""Metrics: pure accumulators over a phase, which are exact under weights and padding."""

from jaxloop.metrics.classification import Accuracy as Accuracy
from jaxloop.metrics.classification import MatthewsCorrelationCoefficient as MatthewsCorrelationCoefficient
from jaxloop.metrics.classification import TopKAccuracy as TopKAccuracy
from jaxloop.metrics.means import Loss as Loss
from jaxloop.metrics.means import Mean as Mean
from jaxloop.metrics.means import Perplexity as Perplexity
from jaxloop.metrics.means import add_to_mean as add_to_mean
from jaxloop.metrics.means import empty_mean as empty_mean
from jaxloop.metrics.means import mean_of as mean_of
from jaxloop.metrics.metric import Metric as Metric
from jaxloop.metrics.metric import check_name as check_name
from jaxloop.metrics.metric import less_is_better as less_is_better
from jaxloop.metrics.metric import resolve as resolve
