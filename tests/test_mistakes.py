"""Mistakes of a first day: each is told with its place, the rule, what came and the fix, and before a step is compiled.

Each case is what a beginner writes. The message is tested as a person reads it: the text of the exception with its
notes, or of a warning, or a line of the console.
"""

import contextlib
import io
import re
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas
import pytest
import scipy.sparse
from flax import nnx

import jaxloop as jl
from jaxloop import Event, Phase, Scope
from tests import small
from tests.compiling import counted_compiles, steps_in

X, Y = small.samples(12)
WILD = np.where(np.arange(12) == 10, 7, Y)
ONE_HOT = np.eye(3, dtype=np.float32)[Y]
KEPT: list[Any] = []
Mistake = tuple[str, Callable[[], Any], type[BaseException], str]


def fit(model: Any = None, epochs: Any = 1, *, on: Any = None, seed: Any = 0, **changes: Any) -> Any:
    arguments = {"validation": None} | changes
    model = small.model() if model is None else model
    return small.training_loop(**arguments).fit(model, epochs, on=on, seed=seed)


def on_arrays(*arrays: Any, **changes: Any) -> Any:
    return fit(training=arrays, **changes)


def regression(targets: Any, **changes: Any) -> Any:
    model = small.model(classes=1)
    return fit(model, training=(X, targets), **({"loss_fn": jl.losses.mean_squared_error, "metrics": []} | changes))


def compiled(event: Event, change: Callable[[jl.Loop], Any]) -> Any:
    return fit(callbacks=[small.at(event, change)])


def host(event: Event, function: Callable[..., Any], **options: Any) -> Any:
    return fit(callbacks=[jl.on_host(event, **options)(function)])


def by_hand(method: str, batch: Any) -> Any:
    training_loop = small.training_loop()
    loop = training_loop.begin_epoch(training_loop.start(small.model(), epochs=1))
    return getattr(training_loop, method)(loop, batch)


def model_of(apply: Any, **sizes: int) -> jl.Model:
    made = small.model(**sizes)
    return jl.Model(apply, made.params, made.state)


def with_softmax(params: Any, state: Any, input: Any, *, training: bool, key: Any) -> Any:
    output, state = small.apply(params, state, input, training=training, key=key)
    return jax.nn.softmax(output), state


def printing(params: Any, state: Any, input: Any, *, training: bool, key: Any) -> Any:
    print(input)
    return small.apply(params, state, input, training=training, key=key)


class Dense(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        return nn.Dense(3)(x)


class Dropping(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        return nn.Dense(3)(nn.Dropout(0.5, deterministic=False)(x))


class Examples:
    """A data set as other libraries have them: random access to single examples."""

    def __init__(self, example: Callable[[int], Any]) -> None:
        self.example = example

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> Any:
        return self.example(index)


class Dropped(nnx.Module):
    def __init__(self) -> None:
        self.dense, self.dropout = nnx.Linear(4, 3, rngs=nnx.Rngs(0)), nnx.Dropout(0.5)

    def __call__(self, x: Any) -> Any:
        return self.dense(self.dropout(x))


@jl.on_host(Event.EPOCH_END)
class OneArgument:
    def __call__(self, loop: Any) -> None: ...


def one_argument(loop: jl.Loop) -> jl.Loop:
    return loop


def wrong_guesses(output: Any, target: Any) -> Any:
    return (jnp.argmax(output, -1) != target).astype(jnp.float32)


def appending(loop: jl.Loop, event: Event) -> jl.Loop:
    if event is Event.UPDATE_START:
        KEPT.append(jnp.mean(loop.loss))
    return loop


def assigning(loop: Any, event: Event) -> jl.Loop:
    if event is Event.UPDATE_START:
        loop.gradient = jax.tree.map(lambda leaf: 0.5 * leaf, loop.gradient)
    return loop


def setting(loop: Any, event: Event) -> jl.Loop:
    if event is Event.UPDATE_START:
        loop.stats["norm"] = jnp.mean(loop.loss)
    return loop


def recording(value: float) -> Any:
    return small.at(Event.BATCH_END, lambda loop: loop.record("mine", value))


def comparing(loop: jl.Loop, event: Event) -> jl.Loop:
    return loop.cancel(Scope.FIT, when=event == "epoch_end")  # type: ignore[comparison-overlap]


def branching(loop: jl.Loop, event: Event) -> jl.Loop:
    if event is Event.BATCH_END and loop.stats["loss"] > 1:
        return loop.cancel(Scope.FIT)
    return loop


def forgetting(loop: jl.Loop, event: Event) -> Any:
    loop.record("mine", 1.0)


def generator() -> Iterator[Any]:
    yield X, Y


def schedule() -> Any:
    return optax.inject_hyperparams(optax.sgd)(optax.linear_schedule(0.0, 1.0, 3))


SCHEDULER = jl.callbacks.learning_rate_scheduler(lambda step: 0.1)

DATA: list[Mistake] = [
    (
        "strings as labels",
        lambda: on_arrays(X, np.array(["cat"] * 12)),
        ValueError,
        r"training: target .*strings.*unique\(labels",
    ),
    (
        "strings as inputs",
        lambda: on_arrays(np.array(["a"] * 12), Y),
        ValueError,
        r"training: input .*strings.*numpy\.unique",
    ),
    ("objects", lambda: on_arrays(X, np.array([0, "1", None] * 4, object)), ValueError, r"target .*objects.*astype"),
    (
        "a categorical",
        lambda: on_arrays(X, pandas.Categorical(["a", "b", "c"] * 4)),
        ValueError,
        r"categorical take its codes",
    ),
    (
        "a series of strings",
        lambda: on_arrays(X, pandas.Series(["a", "b", "c"] * 4)),
        ValueError,
        r"target .*numpy\.unique",
    ),
    (
        "a table of mixed columns",
        lambda: on_arrays(pandas.DataFrame({"a": X[:, 0], "b": "x"}), Y),
        ValueError,
        r"input .*objects",
    ),
    ("times", lambda: on_arrays(np.arange(12).astype("datetime64[D]"), Y), ValueError, r"input .*times.*timedelta64"),
    (
        "records",
        lambda: on_arrays(pandas.DataFrame(X).to_records(), Y),
        ValueError,
        r"input .*records.*\{name: array\[name\] for name in array\.dtype\.names\}",
    ),
    (
        "no targets",
        lambda: on_arrays(X, None),
        TypeError,
        r"^softmax_cross_entropy: there is no target, got None\. Give data as \(inputs, targets\)",
    ),
    (
        "a sparse matrix",
        lambda: on_arrays(scipy.sparse.csr_matrix(X), Y),
        ValueError,
        r"training: samples must be arrays, but \[0\] is a sparse matrix. Write matrix.toarray\(\)",
    ),
    (
        "masked values",
        lambda: on_arrays(np.ma.masked_less(X, 0), Y),
        ValueError,
        r"training: a masked array, of float32\[12, 4\], has \d+ masked values, .* Fill it, as array.filled\(0\)",
    ),
    (
        "strings in validation",
        lambda: fit(validation=(X, np.array(["cat"] * 12))),
        ValueError,
        r"validation: target .*strings",
    ),
    ("(X, y) as lists", lambda: on_arrays(X.tolist(), Y.tolist()), TypeError, r"training: .*lists of numbers.*asarray"),
    ("y as a list", lambda: on_arrays(X, Y.tolist()), ValueError, r"\[1\] is a list of ints.*asarray"),
    ("[X, y]", lambda: fit(training=[X, Y]), TypeError, r"got a list of arrays. Write training=\(inputs, targets\)"),
    ("X alone", lambda: fit(training=X), TypeError, r"training: .*got an array. Write training=\(inputs, targets\)"),
    (
        "a data set of examples",
        lambda: fit(training=Examples(lambda index: (X[index], int(Y[index])))),
        TypeError,
        r"first element is an example, a tuple of 2\. Write training=jaxloop\.TrainingEpochs\(examples, batch_size=",
    ),
    (
        "a data set of mappings",
        lambda: fit(training=Examples(lambda index: {"image": X[index], "label": int(Y[index])})),
        TypeError,
        r"an example or a batch, a mapping of image, label\. Write .*TrainingEpochs.*batch_keys=\(.image., .label.\)",
    ),
    (
        "lists of arrays",
        lambda: fit(training=(list(X), list(Y))),
        TypeError,
        r"^training: expected arrays, got lists of arrays\. Make each of them one, by numpy\.stack",
    ),
    (
        "keys that a batch does not have",
        lambda: fit(training={"x": X, "y": Y}, batch_keys=("image", "label")),
        ValueError,
        r"a batch has no 'image'; it has x, y\. Give batch_keys among these",
    ),
    (
        "a generator of batches",
        lambda: fit(training=generator()),
        TypeError,
        r"its first element is a batch.*spent after one pass",
    ),
    (
        "the function of a loader",
        lambda: fit(training=generator),
        TypeError,
        r"training: .*the function generator. Call it",
    ),
    ("no data", lambda: fit(training=None), TypeError, r"training: .*got None. Write training=\(inputs, targets\)"),
    ("the name of a data set", lambda: fit(training="mnist"), TypeError, r"training: .*got 'mnist'"),
    (
        "unequal lengths",
        lambda: on_arrays(X, Y[:10]),
        ValueError,
        r"share one leading axis, got lengths \[0\]: 12, \[1\]: 10",
    ),
    ("no examples", lambda: on_arrays(X[:0], Y[:0]), ValueError, r"training: there are no samples"),
    (
        "an empty validation",
        lambda: fit(validation=[]),
        ValueError,
        r"validation: there is no batch. Check the batch size",
    ),
    (
        "a generator to validate on",
        lambda: fit(validation=generator()),
        TypeError,
        r"validation: .*repeat\(batches, batch_count=20\)",
    ),
    (
        "a batch size of 0",
        lambda: on_arrays(X, Y, batch_size=0),
        ValueError,
        r"batch_size: it must be .*at least 1, got 0",
    ),
    (
        "half a batch",
        lambda: on_arrays(X, Y, batch_size=2.5),
        ValueError,
        r"batch_size: it must be a whole number.*got 2\.5",
    ),
    (
        "more than all examples",
        lambda: on_arrays(X, Y, batch_size=64),
        ValueError,
        r"at most the number of samples, 12, got 64",
    ),
    (
        "a batch size without effect",
        lambda: fit(batch_size=64),
        ValueError,
        r"batch_size: .*Leave it out, or give the arrays",
    ),
    (
        "a mapping without keys",
        lambda: fit(training=[[{"x": X, "y": Y}]]),
        ValueError,
        r"say which.*batch_keys=\('image', 'label'\)",
    ),
    (
        "NaN in the weights",
        lambda: on_arrays(X, Y, np.where(np.arange(12) == 7, np.nan, np.ones(12)).astype(np.float32)),
        ValueError,
        r"the samples' weight is NaN at \(7,\)",
    ),
    (
        "NaN in the inputs",
        lambda: on_arrays(np.where(X[5, 2] == X, np.nan, X), Y),
        ValueError,
        r"the samples' input is NaN at \(5, 2\)\. Clean the data, or replace it before a step sees it, as by `\.map`",
    ),
]

TARGETS: list[Mistake] = [
    (
        "labels from 1",
        lambda: on_arrays(X, Y + 1),
        ValueError,
        r"target is 3 .*from 0 to 2. They begin at 1, so subtract 1",
    ),
    (
        "a label of -1",
        lambda: on_arrays(X, np.where(np.arange(12) == 11, -1, Y)),
        ValueError,
        r"target is -1 at \(11,\)",
    ),
    (
        "a wild label in a later batch",
        lambda: fit(training=jl.TrainingEpochs((X, WILD), 4)),
        ValueError,
        r"target is 7 at \(10,\)",
    ),
    (
        "a wild label in a list",
        lambda: fit(training=[list(jl.in_batches((X, WILD), 4))]),
        ValueError,
        r"batch \d's target is 7 at \(2,\)",
    ),
    (
        "a wild label in validation",
        lambda: fit(validation=(X, WILD)),
        ValueError,
        r"validation: the samples' target is 7",
    ),
    (
        "a wild label under optax's loss",
        lambda: on_arrays(X, WILD, loss_fn=optax.softmax_cross_entropy_with_integer_labels),
        ValueError,
        r"target is 7 at \(10,\)",
    ),
    (
        "float labels",
        lambda: on_arrays(X, Y.astype(np.float32)),
        ValueError,
        r"must be integer labels of shape \(12,\).*got float32\[12\]\. Write labels\.astype\(numpy\.int32\)",
    ),
    (
        "labels in a column",
        lambda: on_arrays(X, Y[:, None]),
        ValueError,
        r"integer labels of shape \(12,\).*whether the labels need a squeeze",
    ),
    (
        "one-hot of other classes",
        lambda: on_arrays(X, np.eye(5, dtype=np.float32)[Y]),
        ValueError,
        r"probabilities of shape \(12, 3\), got float32\[12, 5\]",
    ),
    (
        "one-hot for integer labels",
        lambda: on_arrays(X, ONE_HOT, loss_fn=optax.softmax_cross_entropy_with_integer_labels),
        Exception,
        r"in loss_fn, training batch 1, output float32\[12, 3\], target float32\[12, 3\]",
    ),
    (
        "integer labels for one-hot",
        lambda: on_arrays(X, Y, loss_fn=optax.softmax_cross_entropy),
        ValueError,
        r"in loss_fn, training batch 1, output float32\[12, 3\], target int32\[12\]",
    ),
    (
        "numbers as probabilities",
        lambda: on_arrays(X, X[:, :3], metrics=[]),
        ValueError,
        r"takes probabilities.*mean_squared_error",
    ),
    (
        "labels for a regression",
        lambda: on_arrays(X, Y, loss_fn=jl.losses.mean_squared_error, metrics=[]),
        ValueError,
        r"must be of one shape, got \(12, 3\) and \(12,\)",
    ),
    (
        "(n, 1) against (n,)",
        lambda: regression(X[:, 0]),
        ValueError,
        r"nothing is broadcast here. Drop the last axis of `output`",
    ),
    (
        "(n, 1) against (n,) in one's own loss",
        lambda: regression(X[:, 0], loss_fn=lambda o, t: jnp.mean((o - t) ** 2)),
        ValueError,
        r"which it broadcasts to \(12, 12\). Drop the last axis",
    ),
    (
        "answers of -1 and 1",
        lambda: regression(np.where(Y > 0, 1, -1), loss_fn=jl.losses.sigmoid_cross_entropy),
        ValueError,
        r"target is -1 .*\(target \+ 1\) / 2",
    ),
    (
        "classes as answers",
        lambda: regression(Y, loss_fn=jl.losses.sigmoid_cross_entropy),
        ValueError,
        r"target is 2 .*from 0 \(no\) to 1 \(yes\)",
    ),
    (
        "a softmax over one class",
        lambda: regression(np.zeros(12, np.int32), loss_fn=jl.losses.softmax_cross_entropy),
        ValueError,
        r"is always 0.*sigmoid_cross_entropy",
    ),
    (
        "the accuracy of a regression",
        lambda: regression(X[:, :1] + 9, metrics=["accuracy"]),
        ValueError,
        r"'accuracy' takes answers from 0",
    ),
    (
        "the best five of three classes",
        lambda: fit(metrics=["top5_accuracy"]),
        ValueError,
        r"at least 5 classes, got 3.*smaller `k`",
    ),
]

MODELS: list[Mistake] = [
    (
        "a class in place of a module",
        lambda: fit(Dense),
        TypeError,
        r"expected an instance of a model.*class Dense. Write lambda: Dense",
    ),
    (
        "no model",
        lambda: small.training_loop().fit(None, 1),
        TypeError,
        r"model: expected a jaxloop\.Model.*got NoneType",
    ),
    ("the name of a model", lambda: fit("resnet"), TypeError, r"model: expected .*got str"),
    (
        "a function of the input",
        lambda: fit(lambda x: x),
        TypeError,
        r"needs some: \(x\).*jaxloop\.Model\(apply, params, state\)",
    ),
    (
        "model and epochs exchanged",
        lambda: small.training_loop().fit(1, small.model()),
        ValueError,
        r"epochs: .*got Model",
    ),
    (
        "another number of features",
        lambda: fit(small.model(features=5)),
        TypeError,
        r"got \(4,\) and \(5,\).*in the model, training batch 1, float32\[4, 4\]",
    ),
    (
        "variables of other features",
        lambda: fit(
            jl.Model.from_linen(
                Dense(),
                {"params": {"Dense_0": {"kernel": np.ones((7, 3), np.float32), "bias": np.ones(3, np.float32)}}},
            )
        ),
        Exception,
        r"in the model, training batch 1, float32\[4, 4\]",
    ),
    (
        "an apply that forgets the state",
        lambda: fit(model_of(lambda params, state, input, *, training, key: input @ params["kernel"])),
        TypeError,
        r"must return \(output, state\), got one array",
    ),
    (
        "an apply of two arguments",
        lambda: fit(model_of(lambda params, input: input)),
        TypeError,
        r"unexpected keyword argument 'training'.*in the model",
    ),
    (
        "a tuple as output",
        lambda: fit(
            model_of(lambda params, state, input, *, training, key: ((input @ params["kernel"], input), state))
        ),
        TypeError,
        r"`logits` must be one array, got a tuple.*loss_fn=\{.digit.: .*in loss_fn, training batch 1, output\.0 ",
    ),
    (
        "dropout without its mode",
        lambda: fit(Dropping(), training=(X, Y), validation=(X, Y)),
        Exception,
        r"rngs=\('noise',\)",
    ),
    ("dropout without rngs", lambda: fit(Dropped()), ValueError, r"no `rngs`.*in the model, training batch 1"),
    (
        "a list to predict from",
        lambda: small.training_loop().predict(small.model(), X.tolist()),
        TypeError,
        r"^predict: expected an array, got a list of numbers. Make it one, by numpy\.asarray",
    ),
    (
        "another shape to predict",
        lambda: small.training_loop().predict(small.model(), X[:, :3]),
        TypeError,
        r"in the model, validation batch, float32\[12, 3\]",
    ),
]

STEPS: list[Mistake] = [
    (
        "the name of a loss",
        lambda: fit(loss_fn="mse"),
        TypeError,
        r"`loss_fn` must be a function.*got 'mse'. Write loss_fn=jaxloop\.losses\.mean_squared_error",
    ),
    (
        "a loss as Keras names it",
        lambda: fit(loss_fn="sparse_categorical_crossentropy"),
        TypeError,
        r"jaxloop\.losses\.softmax_cross_entropy, without calling",
    ),
    ("a loss that was called", lambda: fit(loss_fn=jnp.zeros(())), TypeError, r"got float32\[\].*without calling it"),
    (
        "a loss of one argument",
        lambda: fit(loss_fn=lambda output: output),
        TypeError,
        r"`loss_fn` must take \(output, target\), got \(output\)",
    ),
    (
        "a loss of two results",
        lambda: fit(loss_fn=lambda o, t: (jnp.mean(o), o)),
        TypeError,
        r"must be one array, got a tuple .*Return the loss alone",
    ),
    (
        "a loss of the wrong axis",
        lambda: fit(loss_fn=lambda o, t: jnp.mean(o**2, axis=0)),
        ValueError,
        r"^loss_fn: its shape must be \(\) or begin with the batch's 4 examples, got \[3\]\. [^:]*$",
    ),
    (
        "a complex loss",
        lambda: fit(loss_fn=lambda o, t: jnp.sum(o + 1j, -1)),
        TypeError,
        r"^loss_fn: the loss must be real, got complex64\[4\]\. Return its size",
    ),
    (
        "a loss in NumPy",
        lambda: fit(loss_fn=lambda o, t: np.mean(np.asarray(o) ** 2)),
        Exception,
        r"in loss_fn, training batch 1.*it is compiled.*write jax\.numpy in place of NumPy",
    ),
    (
        "target before output",
        lambda: fit(loss_fn=lambda t, o: jl.losses.softmax_cross_entropy(o, t)),
        Exception,
        r"in loss_fn, training batch 1, output float32\[4, 3\], target int32\[4\]",
    ),
    ("no loss", lambda: fit(loss_fn=None), ValueError, r"give `loss_fn`, or `differentiable_step`"),
    (
        "a step of its own that forgets the loop",
        lambda: fit(loss_fn=None, differentiable_step=lambda model, loop: jnp.mean(model.forward(loop.input)[0])),
        TypeError,
        r"must return \(loss, loop\), got float32\[\]",
    ),
    (
        "a step of its own of one argument",
        lambda: fit(loss_fn=None, differentiable_step=lambda model: model),
        TypeError,
        r"function of \(model, loop\), got \(model\)",
    ),
    (
        "the name of an optimizer",
        lambda: fit(optimizer="adam"),
        TypeError,
        r"`optimizer` must be an optax .*got 'adam'. Write optax\.adam\(0\.001\)",
    ),
    (
        "an optimizer that was not called",
        lambda: fit(optimizer=optax.adam),
        TypeError,
        r"got the function adam. Write optax\.adam",
    ),
    ("a rate as optimizer", lambda: fit(optimizer=0.1), TypeError, r"got 0\.1. Write optax"),
    (
        "the name of a metric",
        lambda: fit(metrics="accuracy"),
        TypeError,
        r"expected a list.*'accuracy'. Put it in brackets",
    ),
    (
        "a metric misspelt",
        lambda: fit(metrics=["acuracy"]),
        ValueError,
        r"'acuracy' is not known. Known by name: .*accuracy",
    ),
    ("a metric that was not called", lambda: fit(metrics=[jl.metrics.Accuracy]), TypeError, r"Call it: Accuracy\(\)"),
    (
        "a schedule with an `if`",
        lambda: fit(optimizer=optax.sgd(lambda step: 0.1 if step < 3 else 0.01)),
        Exception,
        r"in the optimizer, training batch 1, bias float32\[3\], kernel .*it is compiled.*jnp\.where in place of `if`",
    ),
    (
        "a rate as a string",
        lambda: fit(optimizer=optax.sgd("0.1")),  # type: ignore[arg-type]
        TypeError,
        r"in the optimizer, training batch 1, bias float32\[3\]",
    ),
    (
        "a mask that forgets parameters",
        lambda: fit(optimizer=optax.masked(optax.sgd(0.1), {"kernel": True})),
        ValueError,
        r"in the `init` of the optimizer, bias float32\[3\], kernel float32\[4, 3\]",
    ),
    (
        "a compiled map in NumPy",
        lambda: fit(training=jl.TrainingEpochs((X, Y), 4).map(lambda b: (np.asarray(b[0]), b[1]), compiled=True)),
        Exception,
        r"in a compiled map of training, 0 float32\[4, 4\], 1 int32\[4\].*write jax\.numpy in place of NumPy",
    ),
    (
        "a metric of three arguments",
        lambda: fit(metrics=[jl.metrics.Mean(lambda o, t, w: o, "mine")]),
        TypeError,
        r"in metric 'mine', training batch 1, output float32\[4, 3\]",
    ),
    ("no epoch", lambda: fit(epochs=0), ValueError, r"epochs: it must be a whole number of at least 1, got 0"),
    ("half an epoch", lambda: fit(epochs=2.5), ValueError, r"epochs: it must be a whole number.*got 2\.5"),
    ("neither epochs nor steps", lambda: fit(epochs=None), TypeError, r"fit: give how long it trains, as epochs=12"),
    (
        "a key as seed",
        lambda: fit(seed=jax.random.key(0)),
        TypeError,
        r"seed: it must be a whole number, got key.*Write seed=0",
    ),
    (
        "a device that is not there",
        lambda: fit(on="cuda"),
        ValueError,
        r"on: there is no device 'cuda' here; there are: cpu:0.*jaxloop\[cuda\]",
    ),
    ("a number as device", lambda: fit(on=0), TypeError, r"on: expected a device.*Write on='cpu:0'"),
    (
        "a list of devices",
        lambda: fit(on=jax.devices()),
        TypeError,
        r"give a jaxloop\.Placement, such as jaxloop\.data_parallel",
    ),
    ("a choice misspelt", lambda: fit(check="everything"), ValueError, r"`check` must be 'first' or 'memory' or 'all'"),
    (
        "a schedule and a scheduler",
        lambda: fit(optimizer=schedule(), callbacks=[SCHEDULER]),
        ValueError,
        r"drives 'learning_rate' by a schedule of its own",
    ),
    (
        "a schedule of several numbers",
        lambda: fit(callbacks=[jl.callbacks.learning_rate_scheduler(lambda step: jnp.ones(2))]),
        ValueError,
        r"^learning_rate_scheduler: 'learning_rate' is a number, and cannot be set to float32\[2\]",
    ),
    (
        "a schedule that gives nothing",
        lambda: fit(callbacks=[jl.callbacks.learning_rate_scheduler(lambda step: None)]),  # type: ignore[arg-type]
        TypeError,
        r"^learning_rate_scheduler: 'learning_rate' is a number, and cannot be set to None",
    ),
    (
        "a list of segments that was not made",
        lambda: fit(callbacks=[jl.callbacks.learning_rate_scheduler(jl.one_cycle)]),  # type: ignore[arg-type]
        TypeError,
        r"`schedule` must give a number for a step, got a list.*makes segments is called too",
    ),
    (
        "a value before a name",
        lambda: compiled(Event.BATCH_START, lambda loop: loop.with_hyperparameter(0.1, "learning_rate")),
        TypeError,
        r"Loop\.with_hyperparameter: a hyperparameter has a name.*got 0\.1",
    ),
    (
        "one name for two keys",
        lambda: fit(training=[[{"x": X, "y": Y}]], batch_keys="xy"),
        TypeError,
        r"`batch_keys` must be the keys of input and target, got 'xy'\. Write batch_keys=\('image', 'label'\)",
    ),
    (
        "four keys",
        lambda: fit(training=[[{"x": X, "y": Y}]], batch_keys=("x", "x", "x", "y")),
        ValueError,
        r"`batch_keys` must name input and target.*Several inputs are one part",
    ),
    (
        "a scheduler of a fixed rate",
        lambda: fit(optimizer=optax.sgd(0.1), callbacks=[SCHEDULER]),
        ValueError,
        r"exposes no 'learning_rate'. Make it as `optax\.inject_hyperparams",
    ),
]

CALLBACKS: list[Mistake] = [
    (
        "a factory that was not called",
        lambda: fit(callbacks=[jl.callbacks.ema]),
        TypeError,
        r"'ema' takes .*Call it, as ema",
    ),
    (
        "a factory without arguments not called",
        lambda: fit(callbacks=[jl.callbacks.early_stopping]),
        TypeError,
        r"it makes a callback. Call it, as early_stopping",
    ),
    (
        "a class that was not called",
        lambda: fit(callbacks=[jl.callbacks.CSVLogger]),
        TypeError,
        r"CSVLogger is a class; call it",
    ),
    (
        "a callback outside of a list",
        lambda: fit(callbacks=jl.callbacks.early_stopping()),
        TypeError,
        r"expected a list of callbacks.*brackets",
    ),
    (
        "a callback outside of a list, for one fit",
        lambda: small.training_loop().fit(small.model(), 1, callbacks=jl.callbacks.early_stopping()),
        TypeError,
        r"callbacks: expected a list of callbacks.*brackets",
    ),
    (
        "a number as the name of what is recorded",
        lambda: compiled(Event.BATCH_END, lambda loop: loop.record(3, 1.0)),  # type: ignore[arg-type]
        TypeError,
        r"Loop\.record: a name must be a string.*got 3",
    ),
    (
        "a number as the name of what is remembered",
        lambda: fit(callbacks=[jl.callbacks.early_stopping("loss", name=3), jl.callbacks.ema(0.9)]),  # type: ignore[arg-type]
        TypeError,
        r"Loop\.remember: `name` must be a string, got 3",
    ),
    ("a string as a number", lambda: jl.callbacks.ema("0.9"), TypeError, r"ema: `decay` must be a number, got '0\.9'"),  # type: ignore[arg-type]
    (
        "a string as a factor",
        lambda: jl.callbacks.reduce_on_plateau(factor="half"),  # type: ignore[arg-type]
        TypeError,
        r"reduce_on_plateau: `factor` must be a number, got 'half'",
    ),
    ("the name of a callback", lambda: fit(callbacks=["early_stopping"]), TypeError, r"got 'early_stopping'. Call one"),
    ("None for callbacks", lambda: fit(callbacks=None), TypeError, r"got None. Leave it out"),
    (
        "a callback of one argument",
        lambda: fit(callbacks=[one_argument]),
        TypeError,
        r"'one_argument' must take \(loop, event\), got \(loop\)",
    ),
    (
        "a host callback of one argument",
        lambda: host(Event.EPOCH_END, one_argument),
        TypeError,
        r"'one_argument' must take \(loop, event\)",
    ),
    (
        "a host class of one argument",
        lambda: fit(callbacks=[OneArgument()]),
        TypeError,
        r"'OneArgument' must take \(loop, event\)",
    ),
    (
        "on_host without a function",
        lambda: fit(callbacks=[jl.on_host(Event.EPOCH_END)]),
        TypeError,
        r"Write it as @on_host",
    ),
    (
        "on_host without events",
        lambda: jl.on_host(lambda loop, event: None),
        TypeError,
        r"expected one or more jaxloop\.Event.*@on_host\(Event",
    ),  # type: ignore[arg-type]
    (
        "the name of an event",
        lambda: jl.on_host("epoch_end"),
        TypeError,
        r"got 'epoch_end'. Write @on_host\(Event\.EPOCH_END\)",
    ),  # type: ignore[arg-type]
    (
        "an event compared with a string",
        lambda: fit(callbacks=[comparing]),
        TypeError,
        r"'epoch_end' is a string.*`is jaxloop\.Event\.EPOCH_END`",
    ),
    (
        "a phase compared with a string",
        lambda: compiled(Event.BATCH_END, lambda loop: loop.cancel(Scope.FIT, when=loop.phase == "training")),
        TypeError,
        r"Write `is jaxloop\.Phase\.TRAINING`",
    ),
    (
        "the name of a scope",
        lambda: compiled(Event.EPOCH_END, lambda loop: loop.cancel("fit")),
        TypeError,
        r"must be a jaxloop\.Scope, got 'fit'. Write jaxloop\.Scope\.FIT",
    ),  # type: ignore[arg-type]
    (
        "an event as scope",
        lambda: compiled(Event.EPOCH_END, lambda loop: loop.cancel(Event.EPOCH_END)),
        TypeError,
        r"Write jaxloop\.Scope\.EPOCH",
    ),  # type: ignore[arg-type]
    (
        "cancelling on an array",
        lambda: compiled(Event.BATCH_END, lambda loop: loop.cancel(Scope.FIT, when=loop.loss > 9)),
        TypeError,
        r"^Loop\.cancel: `when` must be one bool, got an array of shape \(4,\)\. Of an array write when=jnp\.any",
    ),
    (
        "a field set in place",
        lambda: fit(callbacks=[assigning]),
        AttributeError,
        r"`gradient` cannot be set.*loop = loop\.replace\(gradient",
    ),
    (
        "a statistic set in place",
        lambda: fit(callbacks=[setting]),
        TypeError,
        r"`loop\.stats\['norm'\]` in place.*loop\.record\('norm', value\)",
    ),
    (
        "parameters set in place",
        lambda: compiled(Event.UPDATE_START, lambda loop: (loop.model.params.clear(), loop)[1]),
        TypeError,
        r"`loop\.model\.params\['bias'\]` in place",
    ),
    (
        "no `return loop`",
        lambda: fit(callbacks=[forgetting]),
        TypeError,
        r"must return a loop, got NoneType. End it with `return loop`",
    ),
    (
        "`append` in compiled code",
        lambda: fit(callbacks=[appending]),
        TypeError,
        r"has no value in `KEPT\[0\]`.*loop\.record\(name, value\)",
    ),
    (
        "`if` on a value",
        lambda: fit(callbacks=[branching]),
        TypeError,
        r"'branching' at BATCH_END: it is compiled.*jnp\.where",
    ),
    (
        "`float` of a value",
        lambda: compiled(Event.BATCH_END, lambda loop: loop.record("mine", float(loop.stats["loss"]))),
        TypeError,
        r"it is compiled.*@jaxloop\.on_host",
    ),
    (
        "a vector recorded",
        lambda: compiled(Event.BATCH_END, lambda loop: loop.record("mine", loop.loss)),
        ValueError,
        r"'mine' must be a scalar.*Reduce it, as by jnp\.mean",
    ),
    (
        "one name recorded twice",
        lambda: fit(callbacks=[recording(1.0), recording(2.0)]),
        ValueError,
        r"both record 'mine'.*another name",
    ),
    (
        "two schedulers",
        lambda: fit(callbacks=[SCHEDULER, jl.callbacks.learning_rate_scheduler(lambda step: 0.2)]),
        ValueError,
        r"both record 'learning_rate'.*Leave one out",
    ),
    (
        "a statistic of no validation",
        lambda: compiled(Event.EPOCH_END, lambda loop: loop.record("mine", loop.stats["validation_loss"])),
        KeyError,
        r"there are accuracy, learning_rate, loss. Give the training loop `validation`",
    ),
    (
        "stopping early without validation",
        lambda: fit(callbacks=[jl.callbacks.early_stopping()]),
        ValueError,
        r"`monitor` must be .*got 'validation_loss'.*give the training loop `validation`",
    ),
    (
        "a statistic misspelt",
        lambda: fit(callbacks=[jl.callbacks.early_stopping("val_loss", mode="min")], validation=(X, Y)),
        ValueError,
        r"got 'val_loss'; there are .*validation_loss",
    ),
]

#: What only shows when a host callback runs, after a step.
LATE: list[Mistake] = [
    (
        "an undeclared read of a gradient",
        lambda: host(Event.BATCH_END, lambda loop, event: loop.gradient),
        AttributeError,
        r"declares reads='stats'.*reads='step'\)",
    ),
    (
        "an undeclared read of the model",
        lambda: host(Event.EPOCH_END, lambda loop, event: loop.model),
        AttributeError,
        r"Declare @jaxloop\.on_host\(\.\.\., reads='loop'\)",
    ),
    (
        "a statistic that is not there",
        lambda: host(Event.EPOCH_END, lambda loop, event: loop.stats["acc"]),
        KeyError,
        r"there are accuracy, learning_rate, loss.*Check `metrics`",
    ),
    (
        "cancelling by name on the host",
        lambda: host(Event.EPOCH_END, lambda loop, event: loop.cancel("fit")),
        TypeError,
        r"Write jaxloop\.Scope\.FIT",
    ),
    (
        "cancelling on a string",
        lambda: host(Event.EPOCH_END, lambda loop, event: loop.cancel(Scope.FIT, when="yes")),
        TypeError,
        r"^LoopView\.cancel: `when` must be one bool, got 'yes'",
    ),
    (
        "an explanation of a model",
        lambda: jl.explain(small.model(), small.training_loop()),  # type: ignore[arg-type]
        TypeError,
        r"^explain: expected a TrainingLoop, got Model\. Write explain\(training_loop, model\)",
    ),
    (
        "a batch of other features by hand",
        lambda: by_hand("train_step", (X[:, :2], Y)),
        TypeError,
        r"in the model, training batch, float32\[12, 2\]",
    ),
    (
        "batches by hand that are not stacked",
        lambda: by_hand("run_steps", (X, Y)),
        ValueError,
        r"in metric 'accuracy', training batch, output float32\[3\]",
    ),
    (
        "a result of a host callback",
        lambda: host(Event.EPOCH_END, lambda loop, event: 1.0),
        TypeError,
        r"must return None or the loop.*got float. Declare reads='loop'",
    ),
    (
        "several sets to evaluate",
        lambda: small.training_loop().evaluate(small.model(), {"near": (X, Y), "far": (X, Y)}),
        TypeError,
        r"^batches: expected batches, got a mapping of 'near', 'far'. Of several sets give one at a time",
    ),
    (
        "a step of a model",
        lambda: small.training_loop().train_step(small.model(), (X, Y)),  # type: ignore[arg-type]
        TypeError,
        r"^train_step: expected a loop, got Model\. Begin one by start\(model, epochs=12\)",
    ),
    (
        "a step of what `fit` gives",
        lambda: small.training_loop().begin_epoch(fit()),
        TypeError,
        r"^begin_epoch: expected a loop, got a tuple\. .*take \[0\]",
    ),
    (
        "weights of what `fit` gives",
        lambda: jl.save_weights("run/never.safetensors", fit()),
        TypeError,
        r"^save_weights: expected a model or a loop, got a tuple: `fit` gives \(loop, history\)\. Take \[0\]",
    ),
    (
        "what `fit` gives as model",
        lambda: small.training_loop().fit(fit(), 1),
        TypeError,
        r"`fit` gives \(loop, history\)",
    ),
]

EARLY = [*DATA, *TARGETS, *MODELS, *STEPS, *CALLBACKS]
PACKAGE = str(Path(jl.__file__).parent)


def told(error: BaseException) -> str:
    return " ".join([str(error), *getattr(error, "__notes__", [])])


@pytest.mark.parametrize(("mistake", "kind", "message"), [case[1:] for case in EARLY], ids=[case[0] for case in EARLY])
def test_it_is_told_before_a_step_is_compiled(mistake: Any, kind: Any, message: str) -> None:
    KEPT.clear()
    began = time.process_time()
    with counted_compiles() as counts, pytest.raises(kind) as caught:
        mistake()
    assert steps_in(counts) == {}
    assert time.process_time() - began < 2
    check(caught.value, message)


@pytest.mark.parametrize(("mistake", "kind", "message"), [case[1:] for case in LATE], ids=[case[0] for case in LATE])
def test_it_is_told_when_it_happens(mistake: Any, kind: Any, message: str) -> None:
    with pytest.raises(kind) as caught:
        mistake()
    check(caught.value, message)


def check(error: BaseException, message: str) -> None:
    """The message is as it should be, stands last, and comes with few lines that are not the user's."""
    assert re.search(message, told(error), re.DOTALL), told(error)
    shown = "".join(traceback.format_exception(error))
    assert "For simplicity, JAX" not in shown
    assert shown.count(f'File "{PACKAGE}') <= 3, shown
    last = shown.rstrip().rpartition("\n  File ")[2]
    assert str(error).splitlines()[0][:40] in last or isinstance(error, KeyError), shown


def test_there_are_enough_mistakes() -> None:
    names = [case[0] for case in (*EARLY, *LATE)]
    assert len(set(names)) == len(names) >= 58


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (lambda: fit(model_of(with_softmax)), r"the model ends with a softmax.*Leave the softmax out of the model"),
        (lambda: on_arrays((20 * abs(X)).astype(np.uint8) + 200, Y), r"training: input holds bytes.*/ 255"),
        (lambda: on_arrays(X, 3 * abs(X[:, :3]), metrics=[]), r"adds up to .*sigmoid_cross_entropy"),
        (
            lambda: compiled(Event.UPDATE_START, lambda loop: (print(loop.loss), loop)[1]),
            r"at UPDATE_START: .*jax\.debug\.print",
        ),
        (lambda: fit(model_of(printing)), r"the model or the loss: .*`print` ran only now.*jax\.debug\.print"),
        (lambda: fit(loss_fn=wrong_guesses), r"the gradient of every parameter is 0.*give an accuracy as a metric"),
        (lambda: fit(loss_fn=wrong_guesses, steps_per_dispatch="auto", accumulate=2), r"of every parameter is 0"),
    ],
    ids=[
        *("a softmax in the model", "bytes", "several classes at once", "`print` in a callback", "`print` in a model"),
        *("an accuracy as loss", "an accuracy as loss in parts"),
    ],
)
def test_what_runs_but_was_not_meant_is_a_warning_before_a_step_is_compiled(mistake: Any, message: str) -> None:
    with counted_compiles() as counts, pytest.raises(UserWarning, match=message):  # warnings are errors in these tests
        mistake()
    assert steps_in(counts) == {}


def test_a_warning_points_to_the_line_of_the_user() -> None:
    with pytest.warns(UserWarning, match="softmax") as caught:
        fit(model_of(with_softmax))
    assert Path(caught[0].filename).name == "test_mistakes.py"


def test_a_rate_without_a_guard_is_told_at_once_is_never_best_and_stays_in_the_history(
    capsys: pytest.CaptureFixture[str],
) -> None:
    optimizer = optax.inject_hyperparams(optax.sgd)(learning_rate=1e38)
    _, history = fit(epochs=2, optimizer=optimizer, loss_fn=lambda o, t: jnp.sum(o**2, axis=-1), progress=True)
    lines = capsys.readouterr().out.splitlines()
    told = [index for index, line in enumerate(lines) if line.startswith("The loss is ")]
    first_epoch = next(index for index, line in enumerate(lines) if line.startswith("Epoch 1/2"))
    assert len(told) == 1
    assert told[0] < first_epoch
    assert "from epoch 1, batch 2 on: the run has diverged" in lines[told[0]]
    assert not any(line.endswith("best") for line in lines)
    assert history.diverged == (1, 2)
    assert "loss not finite from epoch 1, batch 2, on" in repr(history)


def test_a_wild_label_in_a_later_batch_of_a_loader_is_told_on_request() -> None:
    class Loader:
        def __len__(self) -> int:
            return 3

        def __iter__(self) -> Iterator[Any]:
            yield from ((X[at : at + 4], WILD[at : at + 4]) for at in (0, 4, 8))

    with pytest.raises(ValueError, match=r"batch \d's target is 7 at \(2,\)"):
        fit(training=[Loader()], check="all")


def test_what_a_loop_and_a_history_do_not_have_is_told() -> None:
    loop, history = fit()
    with pytest.raises(AttributeError, match=r"no attribute 'accuracy'. Write loop.stats\['accuracy'\]"):
        _ = loop.accuracy
    with pytest.raises(AttributeError, match=r"`step` cannot be set: .*loop = loop.replace\(step"):
        loop.step = 3
    assert not hasattr(history, "val_loss")


def test_events_phases_and_scopes_are_found_in_mappings_among_strings() -> None:
    known: dict[Any, int] = {"epoch_end": 1, Event.EPOCH_END: 2, Phase.TRAINING: 3, Scope.FIT: 4, 16: 5}
    assert (known[Event.EPOCH_END], known[Phase.TRAINING], known["epoch_end"], known[Scope.FIT]) == (2, 3, 1, 5)
    assert Event.EPOCH_END in set(Event)
    assert Scope.FIT == 16
    assert Event.EPOCH_END != Event.FIT_END
    assert Event.EPOCH_END not in (None, 3)
    for member in (Event.EPOCH_END, Phase.TRAINING, Scope.FIT):
        with pytest.raises(TypeError, match="is a string, and"):
            _ = member == "fit"


def test_a_notebook_shows_few_frames_of_this_library_and_the_message_last() -> None:
    shells = pytest.importorskip("IPython.core.interactiveshell", reason="IPython is not installed")
    shell = shells.InteractiveShell(colors="nocolor")
    try:
        shell.user_ns["cases"] = [*EARLY, *LATE]
        for index in range(0, len(EARLY), 5):
            shown = _shown_by(shell, f"cases[{index}][1]()")
            assert len(re.findall(rf"File \S*{Path(PACKAGE).name}/\S+\.py:\d+", shown)) <= 3, shown
            assert "For simplicity, JAX" not in shown
    finally:
        shells.InteractiveShell.clear_instance()


def _shown_by(shell: Any, cell: str) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as out, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shell.run_cell(cell)
    assert "Error" in out.getvalue()
    return re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())
