"""Data of every kind, for scripts that feed several devices or several processes."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import jaxloop as jl
from tests import small

TRAINING, TEST = small.samples(64), small.samples(53, seed=1)


class Loader:
    """Batches as a loader gives them: it has a length and can be iterated."""

    def __init__(self, batches: Sequence[Any], make: Callable[[Any], Any] = lambda batch: batch):
        self.batches, self.make = batches, make

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        return map(self.make, self.batches)


def halved(batch: Any) -> Any:
    return batch[0] / 2, batch[1]


def half_on_a_device(batch: Any) -> Any:
    return jnp.asarray(batch[0]), batch[1]


def on_the_third(batch: Any) -> Any:
    return jax.device_put(batch, jax.devices()[2])


def over_the_mesh(batch: Any) -> Any:
    """The batch divided over all devices of one process, if it can be; else whole on each."""
    mesh = Mesh(np.array(jax.devices()), ("data",))
    return jax.device_put(batch, NamedSharding(mesh, PartitionSpec("data" if len(batch[0]) % mesh.size == 0 else None)))


def as_jax(batch: Any) -> Any:
    return jax.tree.map(jnp.asarray, batch)


def lists(samples: Any) -> list[Any]:
    return list(zip(*samples, strict=True))


def padded(samples: Sequence[Any]) -> Any:
    """Sequences of ones as long as their labels say, padded to 4 or 8, and the labels."""
    inputs, labels = zip(*samples, strict=True)
    return jl.pad_and_collate(inputs, pad_value=0, lengths=(4, 8)), np.array(labels, np.int32)


def in_16(make: Callable[[Any], Any]) -> Any:
    return jl.repeat(Loader(jl.in_batches(TRAINING, 16), make))


#: Epochs of 4 batches of 16.
EPOCHS: dict[str, Callable[[], Any]] = {
    "epochs": lambda: jl.TrainingEpochs(TRAINING, 16),
    "resident": lambda: jl.TrainingEpochs(TRAINING, 16, resident=True),
    "mapped": lambda: jl.TrainingEpochs(TRAINING, 16).map(halved),
    "compiled": lambda: jl.TrainingEpochs(TRAINING, 16).map(halved, compiled=True),
    "resident and compiled": lambda: jl.TrainingEpochs(TRAINING, 16, resident=True).map(halved, compiled=True),
    "one by one": lambda: jl.TrainingEpochs(lists(TRAINING), 16),
    "list": lambda: [list(jl.in_batches(TRAINING, 16))] * 2,
    "loader": lambda: in_16(lambda batch: batch),
    "JAX": lambda: in_16(as_jax),
    "half on a device": lambda: in_16(half_on_a_device),
    "on the third": lambda: in_16(on_the_third),
    "over the mesh": lambda: in_16(over_the_mesh),
}

#: Batches of 10, of which the last has 3.
BATCHES: dict[str, Callable[[], Any]] = {
    "own": lambda: jl.in_batches(TEST, 10),
    "mapped": lambda: jl.in_batches(TEST, 10).map(halved),
    "compiled": lambda: jl.in_batches(TEST, 10).map(halved, compiled=True),
    "one by one": lambda: jl.in_batches(lists(TEST), 10),
    "list": lambda: list(jl.in_batches(TEST, 10)),
    "loader": lambda: Loader(jl.in_batches(TEST, 10)),
    "JAX": lambda: Loader(jl.in_batches(TEST, 10), as_jax),
    "half on a device": lambda: Loader(jl.in_batches(TEST, 10), half_on_a_device),
    "on the third": lambda: Loader(jl.in_batches(TEST, 10), on_the_third),
    "over the mesh": lambda: Loader(jl.in_batches(TEST, 10), over_the_mesh),
    "all full": lambda: jl.in_batches(small.samples(50, seed=1), 10),
}


def losses(training: Any, on: Any, steps: int, **changes: Any) -> np.ndarray:
    """The loss of each step of two epochs."""
    loop = small.training_loop(training=training, validation=None, steps_per_dispatch=steps, **changes)
    return np.asarray(loop.fit(small.model(), epochs=2, on=on)[1].batches["loss"])


def meshes() -> dict[str, Any]:
    """Placements over all devices: in one line, and in two columns, of which each has all examples."""
    grid = Mesh(np.array(jax.devices()).reshape(-1, 2), ("data", "model"))
    return {"line": jl.data_parallel(), "grid": jl.Placement(grid)}


def check_training(name: str, kinds: Sequence[str] = tuple(EPOCHS), dispatches: Sequence[int] = (1, 3)) -> None:
    """Losses over a mesh are those of one device."""
    on = meshes()[name]
    for kind in kinds:
        for steps in dispatches:
            expected = losses(EPOCHS[kind](), "cpu:0", steps)
            found = losses(EPOCHS[kind](), on, steps)
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5, err_msg=f"{kind}, {steps} at once")


def check_evaluation(name: str, kinds: Sequence[str] = tuple(BATCHES), dispatches: Sequence[int] = (1, 3)) -> None:
    """Metrics and predictions over a mesh are those of one device."""
    on, model = meshes()[name], small.model()
    for kind in kinds:
        for steps in dispatches:
            loop = small.training_loop(validation=None, steps_per_dispatch=steps)
            expected, found = (loop.evaluate(model, BATCHES[kind](), on=place) for place in ("cpu:0", on))
            assert found.keys() == expected.keys()
            for metric, value in expected.items():
                np.testing.assert_allclose(found[metric], value, rtol=1e-6, err_msg=f"{kind}, {steps} at once")
        expected, found = (loop.predict(model, BATCHES[kind](), on=place) for place in ("cpu:0", on))
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6, err_msg=kind)
