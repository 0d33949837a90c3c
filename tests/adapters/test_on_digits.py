"""Scikit-learn's digits learned by models of every kind that jaxloop takes."""

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import linen, nnx

import jaxloop as jl

pytestmark = pytest.mark.slow  # trains examples or times contestants, for minutes in all


class NNXNetwork(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(64, 128, rngs=rngs)
        self.norm = nnx.BatchNorm(128, momentum=0.9, rngs=rngs)
        self.dropout = nnx.Dropout(0.2, rngs=rngs)
        self.second = nnx.Linear(128, 10, rngs=rngs)

    def __call__(self, images):
        return self.second(self.dropout(nnx.relu(self.norm(self.first(images)))))


class LinenNetwork(linen.Module):
    @linen.compact
    def __call__(self, images, train: bool):
        hidden = linen.BatchNorm(use_running_average=not train, momentum=0.9)(linen.Dense(128)(images))
        return linen.Dense(10)(linen.Dropout(0.2, deterministic=not train)(linen.relu(hidden)))


def nnx_model(images):
    return NNXNetwork(nnx.Rngs(0))


def linen_model(images):
    return LinenNetwork()


def equinox_model(images):
    equinox = pytest.importorskip("equinox")
    first, second = jax.random.split(jax.random.key(0))
    network = equinox.nn.Sequential(
        [
            equinox.nn.Linear(64, 128, key=first),
            equinox.nn.Lambda(jax.nn.relu),
            equinox.nn.Dropout(0.2),
            equinox.nn.Linear(128, 10, key=second),
        ]
    )
    return jl.Model.from_callable(network, batched=False, inference=equinox.nn.inference_mode(network))


def haiku_model(images):
    hk = pytest.importorskip("haiku")

    def network(images, training):
        hidden = jax.nn.relu(hk.BatchNorm(True, True, 0.9)(hk.Linear(128)(images), training))
        return hk.Linear(10)(hk.dropout(hk.next_rng_key(), 0.2, hidden) if training else hidden)

    transformed = hk.transform_with_state(network)

    def apply(params, state, images, *, training, key):
        return transformed.apply(params, state, key, images, training)

    return jl.Model(apply, *transformed.init(jax.random.key(0), images[:1], True))


def function_model(images):
    def apply(params, state, images, *, training, key):
        return jax.nn.relu(images @ params["first"]) @ params["second"] + params["bias"], state

    first, second = jax.random.split(jax.random.key(0))
    initializer = jax.nn.initializers.he_normal()
    params = {"first": initializer(first, (64, 128)), "second": initializer(second, (128, 10)), "bias": jnp.zeros(10)}
    return jl.Model(apply, params)


@pytest.fixture(scope="module")
def digits():
    pytest.importorskip("sklearn")
    from examples.datasets.digits import load_digits

    return [(images.reshape(-1, 64), labels) for images, labels in load_digits()]


@pytest.mark.parametrize("make", [nnx_model, linen_model, equinox_model, haiku_model, function_model])
def test_each_kind_of_model_reaches_95_percent_on_samples_held_out(make, digits):
    training, validation = digits
    training_loop = jl.TrainingLoop(
        training=jl.TrainingEpochs(training, batch_size=64),
        validation=jl.in_batches(validation, 64),
        optimizer=optax.adam(5e-3),
        loss_fn=jl.losses.softmax_cross_entropy,
        metrics=["accuracy"],
        progress=False,
    )
    _, history = training_loop.fit(make(training[0]), epochs=8)
    assert history.epochs["validation_accuracy"][-1] >= 0.95
