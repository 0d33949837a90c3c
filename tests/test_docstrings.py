"""Each example in a public docstring runs, and gives what it shows."""

import dataclasses
import datetime
import doctest
import functools
import importlib
import importlib.util
import inspect
import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import PartitionSpec

import jaxloop as jl
from tests.test_public_names import ROOMS

#: Examples that are left out, and why.
LEFT_OUT = {
    "jaxloop.compile_cache": "it would turn on JAX's cache for all tests of this process",
    "jaxloop.topology": "it needs libtpu, which one process at a time can use",
}
#: What an example needs that is not a part of the library.
NEEDS = {
    "jaxloop.Model": ("haiku",),
    "jaxloop.Model.from_callable": ("equinox",),
    "jaxloop.History.to_pandas": ("pandas",),
    "jaxloop.History.plot": ("matplotlib",),
    "jaxloop.LearningRateTest.plot": ("matplotlib",),
    "jaxloop.schedules.SegmentedSchedule.plot": ("matplotlib",),
    "jaxloop.metrics.from_metrax": ("metrax",),
    "jaxloop.load_weights": ("safetensors",),
    "jaxloop.save_weights": ("safetensors",),
    "jaxloop.weights_in": ("safetensors",),
    "jaxloop.errors.WeightsError": ("safetensors",),
}


class Net(nnx.Module):
    """A network with what the examples ask for."""

    def __init__(self, rngs: nnx.Rngs):
        self.first = nnx.Linear(8, 4, rngs=rngs)
        self.second = nnx.LoRA(4, 2, 4, rngs=rngs)

    def __call__(self, images: Any, *, dropout_rate: float = 0.0) -> Any:
        return (1 - dropout_rate) * self.second(self.first(images))

    def encode(self, images: Any, labels: Any) -> Any:
        codes = self.first(images)
        return codes.mean() + labels.mean(), codes


class LinenNet(flax.linen.Module):
    """The same for linen."""

    @flax.linen.compact
    def __call__(self, images: Any, *, train: bool) -> Any:
        return flax.linen.Dense(4)(images)


def small_network(images: Any, training: bool) -> Any:
    """A function for haiku to transform."""
    haiku = importlib.import_module("haiku")
    return haiku.Linear(4)(images)


#: What names stand for in single examples, if not for what they do in all others.
OTHERS: dict[str, Callable[[], dict[str, Any]]] = {
    "jaxloop.Model": lambda: {"network": small_network, "hk": importlib.import_module("haiku"), "w": np.ones((8, 4))},
    "jaxloop.Model.call": lambda: {"model": jl.Model.from_nnx(Net(nnx.Rngs(0)))},
    "jaxloop.Model.from_nnx": lambda: {"network": Net(nnx.Rngs(0))},
    "jaxloop.Model.from_linen": lambda: {"network": LinenNet()},
    "jaxloop.Model.from_callable": lambda: {"equinox": importlib.import_module("equinox")},
    "jaxloop.schedules.SegmentedSchedule.plot": lambda: {"schedule": jl.make_schedule(jl.one_cycle(0.5))},
}


def with_examples() -> Iterator[tuple[str, Any, str]]:
    """The name, the room and the docstring of each public object whose docstring has an example."""
    seen: set[int] = set()
    for room in ROOMS:
        module = importlib.import_module(room)
        for name in module.__all__:
            for full, thing in parts_of(f"{room}.{name}", getattr(module, name)):
                docstring = inspect.getdoc(thing) or ""
                if ">>>" in docstring and id(thing) not in seen:
                    seen.add(id(thing))
                    yield full, module, docstring


def parts_of(name: str, thing: Any) -> Iterator[tuple[str, Any]]:
    """A public object; of a class also its public methods and properties, those that it inherits from ours too."""
    if inspect.ismodule(thing):
        return
    yield name, thing
    ours = [kind for kind in getattr(thing, "__mro__", ()) if kind.__module__.startswith("jaxloop.")]
    for member, value in itertools.chain.from_iterable(vars(kind).items() for kind in ours):
        method = value.fget if isinstance(value, property) else inspect.unwrap(getattr(value, "__func__", value))
        if not member.startswith("_") and inspect.isfunction(method):
            yield f"{name}.{member}", method


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the names in examples stand for: small data, a model, a training loop, a loop that it gave, and so on."""
    random = np.random.default_rng(0)
    images = random.normal(size=(256, 8)).astype(np.float32)
    labels = images[:, :4].argmax(axis=1).astype(np.int32)
    epochs, loss_fn = jl.TrainingEpochs((images, labels), batch_size=32), jl.losses.softmax_cross_entropy
    optimizer = optax.inject_hyperparams(optax.sgd)(learning_rate=0.1)
    model = nnx.Linear(8, 4, rngs=nnx.Rngs(0))
    training_loop = jl.TrainingLoop(
        epochs, optimizer=optimizer, loss_fn=loss_fn, callbacks=[jl.callbacks.ema(0.9)], progress=False
    )
    loop, history = training_loop.fit(model, epochs=1)
    names = {name: value for name, value in locals().items() if name not in ("random", "tmp_path_factory")}
    modules = (dataclasses, datetime, functools, itertools, sys, jax, optax, nnx)
    return names | {
        **{module.__name__.rpartition(".")[2]: module for module in modules},
        "jl": jl,
        "np": np,
        "jnp": jnp,
        "PartitionSpec": PartitionSpec,
        "dataclass": dataclasses.dataclass,
        "batch": (images[:32], labels[:32]),
        "Net": Net,
    }


class Checker(doctest.OutputChecker):
    """Compares what an example gives with what it shows, if it shows something."""

    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        return want == "" or super().check_output(want, got, optionflags)


def make_files(names: dict[str, Any]) -> None:
    """The files that examples read."""
    if importlib.util.find_spec("safetensors") is None:
        return
    jl.save_weights("run/model.safetensors", names["model"])
    jl.save_weights("model.safetensors", {"first": {"kernel": np.ones((4, 3), np.float32)}})
    jl.save_weights("theirs.safetensors", {"w": np.ones((4, 8), np.float32), "b": np.ones(4, np.float32)})


@pytest.mark.slow
@pytest.mark.parametrize(("name", "room", "docstring"), [pytest.param(*case, id=case[0]) for case in with_examples()])
def test_the_example_of_a_docstring_runs(
    name: str, room: Any, docstring: str, prepared: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name in LEFT_OUT:
        pytest.skip(LEFT_OUT[name])
    for package in NEEDS.get(name, ()):
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    make_files(prepared)
    public = {each: getattr(room, each) for each in room.__all__}
    names = public | prepared | OTHERS.get(name, dict)()
    test = doctest.DocTestParser().get_doctest(docstring, names, name, None, 0)
    test.examples = [example for example in test.examples if "jl.topology(" not in example.source]
    said: list[str] = []
    runner = doctest.DocTestRunner(Checker(), verbose=False, optionflags=doctest.NORMALIZE_WHITESPACE)
    runner.run(test, out=said.append)
    assert not runner.failures, "".join(said)


@pytest.mark.parametrize("room", ROOMS)
def test_each_public_function_and_class_has_an_example(room: str) -> None:
    module = importlib.import_module(room)
    things = {name: getattr(module, name) for name in module.__all__}
    asked = {name: thing for name, thing in things.items() if inspect.isclass(thing) or inspect.isfunction(thing)}
    assert [name for name, thing in asked.items() if ">>>" not in (inspect.getdoc(thing) or "")] == []
