"""Samples of four kinds of outputs, our metrics of each, and what scikit-learn says of them."""

import numpy as np
from sklearn import metrics as sk
from sklearn.preprocessing import label_binarize

from jaxloop import metrics as ours
from jaxloop.metrics.ranking import _thresholds

CLASSES, LABELS, WIDTH = 4, 3, 2
AVERAGES = ("macro", "micro", "weighted")
SCORES = {"precision": sk.precision_score, "recall": sk.recall_score, "f1": sk.f1_score}
KINDS = {"precision": ours.Precision, "recall": ours.Recall, "f1": ours.F1}


def samples(count, seed=0):
    """Outputs that know something of the targets, targets, and weights; as float32 that bfloat16 can hold."""
    random = np.random.default_rng(seed)
    kind = random.choice(CLASSES, count, p=[0.5, 0.3, 0.15, 0.05])
    yes = (random.uniform(size=count) < 0.3).astype(np.float32)
    tags = (random.uniform(size=(count, LABELS)) < [0.5, 0.2, 0.7]).astype(np.float32)
    height = random.normal(100, 3, (count, WIDTH)).astype(np.float32)
    output = {
        "yes": random.normal(size=count) * 2 + yes * 2 - 1,
        "two": random.normal(size=(count, 2)) + np.eye(2)[yes.astype(int)],
        "kind": random.normal(size=(count, CLASSES)) * 2 + 2 * np.eye(CLASSES)[kind],
        "tags": random.normal(size=(count, LABELS)) * 3 + 2 * tags - 1,
        "height": height + random.normal(size=(count, WIDTH)),
    }
    target = {"yes": yes, "two": yes.astype(np.int32), "kind": kind.astype(np.int32), "tags": tags, "height": height}
    weight = random.uniform(0.25, 4, count).astype(np.float32)
    weight[random.uniform(size=count) < 0.2] = 0
    return {name: value.astype(np.float32) for name, value in output.items()}, target, weight


def metrics_of_all():
    """All metrics that can be measured of one output, each of the outputs that it suits."""
    return [
        *(kind(output=name) for name in ("yes", "two") for kind in KINDS.values()),
        *(kind(average, output="kind") for average in AVERAGES for kind in KINDS.values()),
        *(kind(average, multilabel=True, output="tags") for average in AVERAGES for kind in KINDS.values()),
        *(kind(output=name) for kind in (ours.AUC, ours.AveragePrecision) for name in ("yes", "two", "kind")),
        *(kind(multilabel=True, output="tags") for kind in (ours.AUC, ours.AveragePrecision)),
        *(kind(output="height") for kind in (ours.MeanAbsoluteError, ours.MeanSquaredError)),
        *(kind(output="height") for kind in (ours.RootMeanSquaredError, ours.R2)),
        *(kind(output="kind") for kind in (ours.Accuracy, ours.MatthewsCorrelationCoefficient)),
        *(ours.ConfusionMatrix(output=name) for name in ("yes", "kind")),
    ]


def rounded(scores, count=4096):
    """Scores rounded down to fixed thresholds, as the index of the threshold."""
    return np.searchsorted(_thresholds(count), np.asarray(scores, np.float32), side="right")


def log_odds(logits):
    """The logit of the softmax of each class, in float64."""
    logits = logits.astype(np.float64)
    others = np.stack(
        [np.logaddexp.reduce(np.delete(logits, each, axis=1), axis=1) for each in range(logits.shape[1])], axis=1
    )
    return logits - others


def said(output, target, weight, *, exact=False):
    """What scikit-learn says, by our names. Areas are of rounded scores, or with `exact` of the scores themselves."""
    counts = weight > 0
    output = {name: value[counts] for name, value in output.items()}
    target = {name: value[counts] for name, value in target.items()}
    weights = {"sample_weight": weight[counts]}
    found = {}
    scores = {"yes": output["yes"], "two": output["two"][:, 1] - output["two"][:, 0]}
    for name, score in scores.items():
        for title, function in SCORES.items():
            found[f"{name}_{title}"] = function(target[name], score > 0, zero_division=0, **weights)
    kind, tags = output["kind"].argmax(axis=1), output["tags"] > 0
    for average in AVERAGES:
        for title, function in SCORES.items():
            options = {"average": average, "zero_division": 0, **weights}
            found[f"kind_{average}_{title}"] = function(target["kind"], kind, **options)
            found[f"tags_{average}_{title}"] = function(target["tags"], tags, **options)
    ranked = scores | {"kind": log_odds(output["kind"]), "tags": output["tags"]}
    truth = {name: target[name] for name in ranked} | {"kind": label_binarize(target["kind"], classes=range(CLASSES))}
    for name, score in ranked.items():
        score = score if exact else rounded(score)
        found[f"{name}_auc"] = sk.roc_auc_score(truth[name], score, **weights)
        found[f"{name}_average_precision"] = sk.average_precision_score(truth[name], score, **weights)
    pair = (target["height"], output["height"])
    found["height_mean_absolute_error"] = sk.mean_absolute_error(*pair, **weights)
    found["height_mean_squared_error"] = sk.mean_squared_error(*pair, **weights)
    found["height_root_mean_squared_error"] = np.sqrt(sk.mean_squared_error(*pair, **weights))
    found["height_r2"] = sk.r2_score(*pair, **weights)
    found["kind_accuracy"] = sk.accuracy_score(target["kind"], kind, **weights)
    found["kind_matthews_correlation_coefficient"] = sk.matthews_corrcoef(target["kind"], kind, **weights)
    found["yes_confusion_matrix"] = sk.confusion_matrix(target["yes"], output["yes"] > 0, **weights)
    found["kind_confusion_matrix"] = sk.confusion_matrix(target["kind"], kind, labels=range(CLASSES), **weights)
    return found


def check(found, expected, tolerance=1e-6):
    """Fails unless each metric is as expected, relative to the largest entry of a matrix."""
    assert expected.keys() <= found.keys()
    for name, value in expected.items():
        scale = max(1.0, float(np.max(np.abs(value))))
        np.testing.assert_allclose(found[name], value, rtol=0, atol=tolerance * scale, err_msg=name)
