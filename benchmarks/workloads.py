"""The workloads: data, weights and optimizer. A new workload is a function here and a name in WORKLOADS."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import jax
import numpy as np
import optax

import jaxloop as jl
from benchmarks import networks


@dataclass(frozen=True)
class Workload:
    """A training that every contestant does in the same way.

    Attributes:
      name: the name in tables.
      model: the network with its first weights, as NumPy arrays, which must not be changed.
      samples: (input, target), NumPy arrays of one length, which is a whole number of batches.
      batch_size: the number of examples in a batch.
      rule: the optimizer's rule, which all frameworks have: plain SGD, or Adam with an epsilon of 1e-8.
      learning_rate: the learning rate of the rule.
      epochs: the number of epochs in a turn, unless the command line sets another.
    """

    name: str
    model: jl.Model
    samples: tuple[np.ndarray, np.ndarray]
    batch_size: int
    rule: Literal["sgd", "adam"]
    learning_rate: float
    epochs: int = 1

    @property
    def step_count(self) -> int:
        """The number of steps in an epoch."""
        return len(self.samples[0]) // self.batch_size

    @property
    def optimizer(self) -> optax.GradientTransformation:
        """The rule in optax."""
        return {"sgd": optax.sgd, "adam": optax.adam}[self.rule](self.learning_rate)

    def training(self) -> jl.TrainingEpochs:
        """The epochs of batches, in an order that is the same for all."""
        return jl.TrainingEpochs(self.samples, self.batch_size)

    def shortened(self, step_count: int) -> "Workload":
        """This workload with epochs of at most `step_count` steps, for a quick try."""
        count = step_count * self.batch_size
        return replace(self, samples=(self.samples[0][:count], self.samples[1][:count]))


def loss_fn(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """The cross entropy of each example or token. Every contestant minimizes its mean."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def perceptron() -> Workload:
    """MLP 64-32-10 on noise, 1024 steps of 32 with SGD: the host's work takes the time."""
    model = jl.Model(networks.perceptron, networks.perceptron_params())
    return Workload("W1", model, _noise(1024 * 32, (64,)), 32, "sgd", 0.1, epochs=10)


def digits() -> Workload:
    """Two convolutions and two dense layers on scikit-learn's digits, 128 steps of 128 with Adam."""
    from sklearn.datasets import load_digits

    images, labels = map(np.asarray, load_digits(return_X_y=True))
    images = (images / 16).astype(np.float32).reshape(-1, 8, 8, 1)
    repeated = np.arange(128 * 128) % len(images)
    samples = images[repeated], labels.astype(np.int32)[repeated]
    model = jl.Model(networks.convolutional, networks.convolutional_params())
    return Workload("W2", model, samples, 128, "adam", 1e-3, epochs=2)


def residual() -> Workload:
    """ResNet-8 with batch norm on 32x32x3 noise, 16 steps of 64 with SGD: arithmetic takes the time."""
    network = networks.resnet_8()
    return Workload("W3", jl.Model(network, *network.variables()), _noise(16 * 64, (32, 32, 3)), 64, "sgd", 0.1)


def lenet() -> Workload:
    """LeNet-5 on noise of the shape of MNIST, 64 steps of 128 with SGD."""
    model = jl.Model(networks.lenet, networks.lenet_params())
    return Workload("LeNet", model, _noise(64 * 128, (28, 28, 1)), 128, "sgd", 0.1, epochs=2)


def resnet_20() -> Workload:
    """ResNet-20 on noise of the shape of CIFAR-10, 8 steps of 64 with SGD."""
    network = networks.resnet_20()
    return Workload("ResNet-20", jl.Model(network, *network.variables()), _noise(8 * 64, (32, 32, 3)), 64, "sgd", 0.1)


def resnet_50() -> Workload:
    """ResNet-50 on 64x64x3 noise, 2 steps of 8 with SGD."""
    network = networks.resnet_50()
    return Workload("ResNet-50", jl.Model(network, *network.variables()), _noise(2 * 8, (64, 64, 3)), 8, "sgd", 0.01)


def transformer() -> Workload:
    """Two layers, 64 wide, on 32 tokens of noise, 64 steps of 16 with Adam: many small arrays."""
    network = networks.Transformer()
    tokens = np.random.default_rng(0).integers(0, network.vocabulary, (64 * 16, network.length + 1)).astype(np.int32)
    samples = np.ascontiguousarray(tokens[:, :-1]), np.ascontiguousarray(tokens[:, 1:])
    return Workload("Transformer", jl.Model(network, network.params()), samples, 16, "adam", 1e-3)


WORKLOADS: dict[str, Callable[[], Workload]] = {
    "W1": perceptron,
    "W2": digits,
    "W3": residual,
    "LeNet": lenet,
    "ResNet-20": resnet_20,
    "ResNet-50": resnet_50,
    "Transformer": transformer,
}


def _noise(count: int, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    inputs = generator.normal(size=(count, *shape)).astype(np.float32)
    return inputs, generator.integers(0, 10, count).astype(np.int32)
