"""PyTorch: a loop by hand, and Lightning, over the same modules."""

import logging
import warnings
from collections.abc import Iterator
from typing import Any

import lightning  # pyright: ignore[reportMissingImports]
import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]

from benchmarks.contestants import Outcome, Turn
from benchmarks.networks import ResNet
from benchmarks.workloads import Workload


def by_torch(workload: Workload, epochs: int) -> Turn:
    """The plain loop. Loss and accuracy are summed as tensors, and fetched once an epoch."""
    training = workload.training()

    def turn() -> Outcome:
        model = _MODULES[workload.name](workload)
        optimizer = _optimizer(workload, model)
        means = []
        for epoch_index in range(epochs):
            sums = torch.zeros(2)
            for batch in training[epoch_index]:
                input, labels = map(torch.from_numpy, batch)
                optimizer.zero_grad(set_to_none=True)
                logits = model(input)
                loss = nn.functional.cross_entropy(logits, labels.long())
                loss.backward()
                optimizer.step()
                sums += torch.stack([loss.detach(), (logits.argmax(1) == labels).float().mean()])
            means.append((sums / workload.step_count).numpy())
        return Outcome(None, *np.transpose(means))

    return turn


def by_lightning(workload: Workload, epochs: int) -> Turn:
    """Lightning's `Trainer` without bar, loggers, checkpoints and summaries. `self.log` gives the means of epochs."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    off = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")

    def turn() -> Outcome:
        module = _Module(workload)
        trainer = lightning.Trainer(max_epochs=epochs, accelerator="cpu", **dict.fromkeys(off, False))
        trainer.fit(module, _Batches(workload, trainer))
        return Outcome(None, *np.transpose(module.means))

    return turn


class _Module(lightning.LightningModule):
    def __init__(self, workload: Workload):
        super().__init__()
        self.workload = workload
        self.network = _MODULES[workload.name](workload)
        self.means: list[tuple[float, float]] = []

    def training_step(self, batch: Any, batch_index: int) -> torch.Tensor:
        input, labels = batch
        logits = self.network(input)
        loss = nn.functional.cross_entropy(logits, labels.long())
        accuracy = (logits.argmax(1) == labels).float().mean()
        values = {"loss": loss, "accuracy": accuracy}
        self.log_dict(values, on_step=False, on_epoch=True, batch_size=len(input))
        return loss

    def on_train_epoch_end(self) -> None:
        measured = self.trainer.callback_metrics
        self.means.append((float(measured["loss"]), float(measured["accuracy"])))

    def configure_optimizers(self) -> Any:
        return _optimizer(self.workload, self.network)


class _Batches:
    """The batches of the trainer's present epoch, since the trainer iterates more than once an epoch."""

    def __init__(self, workload: Workload, trainer: lightning.Trainer):
        self._workload = workload
        self._trainer = trainer
        self._training = workload.training()

    def __len__(self) -> int:
        return self._workload.step_count

    def __iter__(self) -> Iterator[Any]:
        return (tuple(map(torch.from_numpy, batch)) for batch in self._training[self._trainer.current_epoch])


def _optimizer(workload: Workload, model: nn.Module) -> torch.optim.Optimizer:
    rule = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[workload.rule]
    return rule(model.parameters(), lr=workload.learning_rate)


def _set(layer: Any, **values: np.ndarray) -> Any:
    with torch.no_grad():
        for name, value in values.items():
            getattr(layer, name).copy_(torch.from_numpy(np.ascontiguousarray(value)))
    return layer


def _dense(params: Any) -> nn.Linear:
    return _set(nn.Linear(*params["kernel"].shape), weight=params["kernel"].T, bias=params["bias"])


class _Convolution(nn.Module):
    """A convolution with XLA's padding, which puts the odd pixel at the end."""

    def __init__(self, params: Any, stride: int = 1, *, bias: bool = True):
        super().__init__()
        size, _, inputs, outputs = params["kernel"].shape
        padding = (size - 1) // 2 if stride == 1 else 0
        self.pad = (0, size - 2, 0, size - 2) if stride == 2 and size > 1 else None
        values = {"weight": params["kernel"].transpose(3, 2, 0, 1)} | ({"bias": params["bias"]} if bias else {})
        self.layer = _set(nn.Conv2d(inputs, outputs, size, stride, padding, bias=bias), **values)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return self.layer(input if self.pad is None else nn.functional.pad(input, self.pad))


def _images(input: torch.Tensor) -> torch.Tensor:
    return input.permute(0, 3, 1, 2).contiguous()


class _Perceptron(nn.Module):
    def __init__(self, workload: Workload):
        super().__init__()
        params = workload.model.params
        self.hidden, self.output = _dense(params["hidden"]), _dense(params["output"])

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return self.output(torch.relu(self.hidden(input)))


class _Convolutional(nn.Module):
    def __init__(self, workload: Workload):
        super().__init__()
        params = workload.model.params
        self.first, self.second = _Convolution(params["first"]), _Convolution(params["second"], 2)
        self.hidden, self.output = _dense(params["hidden"]), _dense(params["output"])

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        maps = torch.relu(self.second(torch.relu(self.first(_images(input)))))
        flat = maps.permute(0, 2, 3, 1).flatten(1)  # in the order of the others' weights
        return self.output(torch.relu(self.hidden(flat)))


class _Normed(nn.Module):
    def __init__(self, params: Any, stride: int):
        super().__init__()
        self.convolution = _Convolution(params, stride, bias=False)
        self.norm = _set(nn.BatchNorm2d(len(params["bias"])), weight=params["scale"], bias=params["bias"])

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return self.norm(self.convolution(input))


class _Block(nn.Module):
    def __init__(self, params: Any, stride: int):
        super().__init__()
        self.first, self.second = _Normed(params["first"], stride), _Normed(params["second"], 1)
        self.shortcut = _Normed(params["shortcut"], stride) if "shortcut" in params else nn.Identity()

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.second(torch.relu(self.first(input))) + self.shortcut(input))


class _ResNet(nn.Module):
    def __init__(self, workload: Workload):
        super().__init__()
        network, params = workload.model.apply, workload.model.params
        assert isinstance(network, ResNet)
        self.stem = _Normed(params["stem"], network.stem[2])
        self.blocks = nn.Sequential(*(_Block(params[block.name], block.convolutions[0][3]) for block in network.blocks))
        self.output = _dense(params["output"])

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return self.output(self.blocks(torch.relu(self.stem(_images(input)))).mean(dim=(2, 3)))


_MODULES = {"W1": _Perceptron, "W2": _Convolutional, "W3": _ResNet}
