"""Keras 3 on JAX: `compile` and `fit`."""

import os
from typing import Any

os.environ["KERAS_BACKEND"] = "jax"  # read once, when Keras is imported

import keras  # pyright: ignore[reportMissingImports]
import numpy as np
from keras import layers  # pyright: ignore[reportMissingImports]

from benchmarks.contestants import Outcome, Turn
from benchmarks.networks import ResNet
from benchmarks.workloads import Workload


def by_keras(workload: Workload, epochs: int, *, steps_per_execution: int = 1) -> Turn:
    """One `fit` over all epochs, jitted, without a bar. A `PyDataset` gives the batches in the common order."""
    model = _MODELS[workload.name](workload)
    rule = {"sgd": keras.optimizers.SGD, "adam": keras.optimizers.Adam}[workload.rule]
    options = {"epsilon": 1e-8} if workload.rule == "adam" else {}
    settings: dict[str, Any] = {
        "steps_per_execution": steps_per_execution,
        "jit_compile": True,
        "metrics": ["accuracy"],
    }
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(rule(workload.learning_rate, **options), loss, **settings)
    model.optimizer.build(model.trainable_variables)
    variables = [*model.variables, *model.optimizer.variables]
    first = [np.array(variable) for variable in variables]
    silent: dict[str, Any] = {"verbose": 0, "shuffle": False}

    def turn() -> Outcome:
        for variable, value in zip(variables, first, strict=True):
            variable.assign(value)
        batches = _Batches(workload)
        begin = keras.callbacks.LambdaCallback(on_epoch_begin=batches.begin)
        measured = model.fit(batches, epochs=epochs, callbacks=[begin], **silent).history
        return Outcome(None, np.array(measured["loss"]), np.array(measured["accuracy"]))

    return turn


class _Batches(keras.utils.PyDataset):
    """The batches of the epoch that a callback sets: Keras calls the hooks of the data more than once an epoch."""

    def __init__(self, workload: Workload):
        super().__init__()
        self._training = workload.training()
        self._batches = self._training[0]

    def begin(self, epoch: int, logs: Any) -> None:
        self._batches = self._training[epoch]

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> Any:
        return self._batches[index]


def _dense(params: Any, activation: str | None = None) -> layers.Dense:
    return _set(layers.Dense(params["kernel"].shape[1], activation), params["kernel"].shape[:1], params)


def _convolution(params: Any, stride: int = 1, activation: str | None = None, *, bias: bool = True) -> layers.Conv2D:
    size, _, inputs, outputs = params["kernel"].shape
    layer = layers.Conv2D(outputs, size, stride, "same", activation=activation, use_bias=bias)
    return _set(layer, (None, None, inputs), params if bias else {"kernel": params["kernel"]})


def _set(layer: Any, shape: tuple[int | None, ...], params: Any) -> Any:
    layer.build((None, *shape))
    layer.set_weights([params["kernel"], *([params["bias"]] if "bias" in params else [])])
    return layer


def _perceptron(workload: Workload) -> keras.Model:
    params = workload.model.params
    return keras.Sequential([keras.Input((64,)), _dense(params["hidden"], "relu"), _dense(params["output"])])


def _convolutional(workload: Workload) -> keras.Model:
    params = workload.model.params
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            _convolution(params["first"], 1, "relu"),
            _convolution(params["second"], 2, "relu"),
            layers.Flatten(),
            _dense(params["hidden"], "relu"),
            _dense(params["output"]),
        ]
    )


def _normed(params: Any, input: Any, stride: int) -> Any:
    maps = _convolution(params, stride, bias=False)(input)
    norm = layers.BatchNormalization(momentum=0.9, epsilon=1e-5)
    norm.build(maps.shape)
    norm.set_weights([params["scale"], params["bias"], *norm.get_weights()[2:]])
    return norm(maps)


def _resnet(workload: Workload) -> keras.Model:
    network, params = workload.model.apply, workload.model.params
    assert isinstance(network, ResNet)
    input = keras.Input((32, 32, 3))
    maps = layers.ReLU()(_normed(params["stem"], input, network.stem[2]))
    for block in network.blocks:
        own, stride = params[block.name], block.convolutions[0][3]
        around = _normed(own["shortcut"], maps, stride) if "shortcut" in own else maps
        inner = layers.ReLU()(_normed(own["first"], maps, stride))
        maps = layers.ReLU()(_normed(own["second"], inner, 1) + around)
    return keras.Model(input, _dense(params["output"])(layers.GlobalAveragePooling2D()(maps)))


_MODELS = {"W1": _perceptron, "W2": _convolutional, "W3": _resnet}
