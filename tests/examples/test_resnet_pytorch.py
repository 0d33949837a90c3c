"""The residual network beside PyTorch's, with the same weights. Skipped where PyTorch is not installed."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

from examples.models.resnet import ResNet, load_checkpoint
from tests.examples.resnet_weights import state_dict

torch = pytest.importorskip("torch")
functional = torch.nn.functional


class Block(torch.nn.Module):
    def __init__(self, given, channels, projection):
        super().__init__()
        stride = 1 if given == channels else 2
        self.conv1 = torch.nn.Conv2d(given, channels, 3, stride, padding=1, bias=False)
        self.bn1 = torch.nn.BatchNorm2d(channels)
        self.conv2 = torch.nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = torch.nn.BatchNorm2d(channels)
        self.more = channels - given
        if projection and self.more:
            self.downsample = torch.nn.Sequential(
                torch.nn.Conv2d(given, channels, 1, stride, bias=False), torch.nn.BatchNorm2d(channels)
            )

    def forward(self, x):
        y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        if hasattr(self, "downsample"):
            x = self.downsample(x)
        elif self.more:
            x = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.more // 2, self.more // 2))
        return functional.relu(y + x)


class Network(torch.nn.Module):
    def __init__(self, depth, projection):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = torch.nn.BatchNorm2d(16)
        for stage, (given, channels) in enumerate([(16, 16), (16, 32), (32, 64)], start=1):
            widths = [given] + [channels] * (depth // 6 - 1)
            blocks = [Block(width, channels, projection) for width in widths]
            self.add_module(f"layer{stage}", torch.nn.Sequential(*blocks))
        self.fc = torch.nn.Linear(64, 10)

    def forward(self, x):
        x = functional.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(x.mean(dim=(2, 3)))


@pytest.fixture(params=[(20, "pad"), (56, "project")], ids=["20, padded", "56, projected"])
def both(request, tmp_path):
    """The network in PyTorch and here, with the same weights."""
    depth, shortcut = request.param
    tensors = state_dict(depth, projection=shortcut == "project")
    network = Network(depth, shortcut == "project")
    network.load_state_dict({name: torch.from_numpy(np.array(tensor)) for name, tensor in tensors.items()})
    save_file(tensors, tmp_path / "model.safetensors")
    model = ResNet(depth, shortcut=shortcut, rngs=nnx.Rngs(0))
    load_checkpoint(model, tmp_path / "model.safetensors")
    return network, model


def images() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(4, 32, 32, 3)).astype(np.float32)


def test_inference_gives_the_same_logits(both):
    network, model = both
    model.eval()
    with torch.no_grad():
        expected = network.eval()(torch.from_numpy(images().transpose(0, 3, 1, 2))).numpy()
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(model(jnp.asarray(images())), expected, atol=1e-4)


def test_training_gives_the_same_logits_and_running_means(both):
    network, model = both
    model.train()
    with torch.no_grad():
        expected = network.train()(torch.from_numpy(images().transpose(0, 3, 1, 2))).numpy()
    np.testing.assert_allclose(model(jnp.asarray(images())), expected, atol=1e-3)
    last = network.layer3[-1].bn2
    np.testing.assert_allclose(model.stages[2][-1].norm2.mean[...], last.running_mean.numpy(), atol=1e-4)
