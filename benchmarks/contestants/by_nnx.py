"""A loop by hand over Flax NNX modules, as in its guide: `nnx.jit`, `nnx.Optimizer`, `nnx.MultiMetric`."""

from typing import Any

import jax
import numpy as np
from flax import nnx

from benchmarks.contestants import Outcome, Turn
from benchmarks.networks import ResNet
from benchmarks.workloads import Workload, loss_fn


def by_nnx(workload: Workload, epochs: int, *, cached: bool = False) -> Turn:
    """`nnx.jit` of a step over the module, the optimizer and the metrics; with `cached` in `nnx.cached_partial`."""
    model = _MODULES[workload.name](workload)
    model.train()
    optimizer = nnx.Optimizer(model, workload.optimizer, wrt=nnx.Param)
    metrics = nnx.MultiMetric(accuracy=nnx.metrics.Accuracy(), loss=nnx.metrics.Average("loss"))
    first = jax.tree.map(np.array, nnx.state((model, optimizer, metrics)))
    train_step = nnx.cached_partial(_train_step, model, optimizer, metrics) if cached else None
    training = workload.training()

    def turn() -> Outcome:
        nnx.update((model, optimizer, metrics), jax.tree.map(jax.numpy.copy, first))
        means = []
        for epoch_index in range(epochs):
            metrics.reset()
            for batch in training[epoch_index]:
                if train_step is None:
                    _train_step(model, optimizer, metrics, batch)
                else:
                    train_step(batch)
            means.append({name: float(value) for name, value in metrics.compute().items()})
        jax.block_until_ready(nnx.state(model))
        return Outcome(None, *(np.array([mean[name] for mean in means]) for name in ("loss", "accuracy")))

    return turn


@nnx.jit
def _train_step(model: Any, optimizer: Any, metrics: Any, batch: Any) -> None:
    input, labels = batch

    def mean_loss(model: Any) -> tuple[jax.Array, jax.Array]:
        logits = model(input)
        return loss_fn(logits, labels).mean(), logits

    (loss, logits), gradient = nnx.value_and_grad(mean_loss, has_aux=True)(model)
    metrics.update(loss=loss, logits=logits, labels=labels)
    optimizer.update(model, gradient)


def _set(layer: Any, params: Any) -> Any:
    for name in params.keys() & {"kernel", "bias", "scale"}:
        getattr(layer, name)[...] = params[name]
    return layer


def _dense(params: Any) -> nnx.Linear:
    return _set(nnx.Linear(*params["kernel"].shape, rngs=nnx.Rngs(0)), params)


def _convolution(params: Any, stride: int = 1, *, bias: bool = True) -> nnx.Conv:
    height, width, inputs, outputs = params["kernel"].shape
    layer = nnx.Conv(inputs, outputs, (height, width), stride, use_bias=bias, rngs=nnx.Rngs(0))
    return _set(layer, params if bias else {"kernel": params["kernel"]})


class _Perceptron(nnx.Module):
    def __init__(self, workload: Workload):
        params = workload.model.params
        self.hidden, self.output = _dense(params["hidden"]), _dense(params["output"])

    def __call__(self, input: Any) -> Any:
        return self.output(nnx.relu(self.hidden(input)))


class _Convolutional(nnx.Module):
    def __init__(self, workload: Workload):
        params = workload.model.params
        self.first, self.second = _convolution(params["first"]), _convolution(params["second"], 2)
        self.hidden, self.output = _dense(params["hidden"]), _dense(params["output"])

    def __call__(self, input: Any) -> Any:
        maps = nnx.relu(self.second(nnx.relu(self.first(input))))
        return self.output(nnx.relu(self.hidden(maps.reshape(len(maps), -1))))


class _Normed(nnx.Module):
    def __init__(self, params: Any, stride: int):
        self.convolution = _convolution(params, stride, bias=False)
        norm = nnx.BatchNorm(params["bias"].shape[0], momentum=0.9, epsilon=1e-5, rngs=nnx.Rngs(0))
        self.norm = _set(norm, {"scale": params["scale"], "bias": params["bias"]})

    def __call__(self, input: Any) -> Any:
        return self.norm(self.convolution(input))


class _Block(nnx.Module):
    def __init__(self, params: Any, stride: int):
        self.first, self.second = _Normed(params["first"], stride), _Normed(params["second"], 1)
        self.shortcut = _Normed(params["shortcut"], stride) if "shortcut" in params else None

    def __call__(self, input: Any) -> Any:
        maps = self.second(nnx.relu(self.first(input)))
        return nnx.relu(maps + (input if self.shortcut is None else self.shortcut(input)))


class _ResNet(nnx.Module):
    def __init__(self, workload: Workload):
        network, params = workload.model.apply, workload.model.params
        assert isinstance(network, ResNet)
        self.stem = _Normed(params["stem"], network.stem[2])
        self.blocks = nnx.List([_Block(params[block.name], block.convolutions[0][3]) for block in network.blocks])
        self.output = _dense(params["output"])

    def __call__(self, input: Any) -> Any:
        maps = nnx.relu(self.stem(input))
        for block in self.blocks:
            maps = block(maps)
        return self.output(maps.mean(axis=(1, 2)))


_MODULES = {"W1": _Perceptron, "W2": _Convolutional, "W3": _ResNet}
