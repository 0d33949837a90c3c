"""The residual network: its size, its logits and batch statistics, and the checkpoints that it is filled from."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from safetensors.numpy import save_file

import jaxloop as jl
from examples.models.resnet import ResNet, load_checkpoint
from tests.examples.resnet_weights import state_dict

pytestmark = pytest.mark.slow  # trains examples or times contestants, for minutes in all


def random_images(count: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 32, 32, 3)).astype(np.float32)


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85)])
def test_it_has_as_many_parameters_as_the_paper_says(depth, millions):
    params = nnx.state(nnx.eval_shape(lambda: ResNet(depth, rngs=nnx.Rngs(0))), nnx.Param)
    assert round(sum(leaf.size for leaf in jax.tree.leaves(params)) / 1e6, 2) == millions


def test_a_projection_adds_two_convolutions_and_their_normalization():
    plain, projected = (
        nnx.state(nnx.eval_shape(lambda kind=kind: ResNet(20, shortcut=kind, rngs=nnx.Rngs(0))), nnx.Param)
        for kind in ("pad", "project")
    )
    more = sum(leaf.size for leaf in jax.tree.leaves(projected)) - sum(leaf.size for leaf in jax.tree.leaves(plain))
    assert more == 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64


@pytest.mark.parametrize("depth", [2, 18, 21])
def test_a_depth_other_than_6n_plus_2_is_refused(depth):
    with pytest.raises(ValueError, match=rf"`depth` must be 6n \+ 2, such as 20, 32, 44 or 56, got {depth}"):
        ResNet(depth, rngs=nnx.Rngs(0))


def test_the_maps_are_halved_twice_and_the_new_channels_begin_with_zeros():
    model = ResNet(8, rngs=nnx.Rngs(0))
    block = model.stages[1][0]
    block.norm2.scale[...] = jnp.zeros(32)  # what is left is the shortcut
    x = jnp.abs(jnp.asarray(random_images(2)[..., :1])) * jnp.arange(1, 17)
    made = block(x)
    assert made.shape == (2, 16, 16, 32)
    np.testing.assert_allclose(made[..., 8:24], x[:, ::2, ::2])
    assert not made[..., :8].any()
    assert not made[..., 24:].any()


#: What PyTorch 2.13 gives in inference for the weights of `state_dict(20)`: the logits of the first of the images that
#: seed 1 makes, by the network of `test_resnet_pytorch`.
LOGITS = {
    "pad": """5.0328393 -0.3939487 -0.6828778 -2.3939371 3.4976156
              -1.7928778 1.0085856 1.3532424 -0.4969557 2.3582642""",
    "project": """2.8374927 0.1102062 0.2599366 1.1165233 -2.5401864
                  -0.1909757 -1.6205579 0.1461889 -3.8951087 1.8316086""",
}


@pytest.mark.parametrize("shortcut", ["pad", "project"])
def test_the_logits_of_a_checkpoint_are_those_that_pytorch_gives(tmp_path, shortcut):
    save_file(state_dict(20, projection=shortcut == "project"), tmp_path / "model.safetensors")
    model = ResNet(20, shortcut=shortcut, rngs=nnx.Rngs(0))
    load_checkpoint(model, tmp_path / "model.safetensors")
    model.eval()
    expected = np.array(LOGITS[shortcut].split(), np.float32)
    np.testing.assert_allclose(model(jnp.asarray(random_images(2)))[0], expected, atol=1e-4)


def test_the_other_usual_names_of_a_checkpoint_are_known_too(tmp_path):
    tensors = state_dict(8, projection=True)
    renamed = {name.replace("downsample", "shortcut").replace("fc.", "linear."): a for name, a in tensors.items()}
    models = []
    for content in (tensors, renamed):
        save_file(content, tmp_path / "model.safetensors")
        models.append(ResNet(8, shortcut="project", rngs=nnx.Rngs(len(models))))
        load_checkpoint(models[-1], tmp_path / "model.safetensors")
    jax.tree.map(np.testing.assert_array_equal, nnx.state(models[0], nnx.Param), nnx.state(models[1], nnx.Param))


def test_a_checkpoint_of_another_depth_is_refused(tmp_path):
    save_file(state_dict(14), tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"does not fit ResNet: the model has no stages\.0\.1\.convolution1\.kernel"):
        load_checkpoint(ResNet(8, rngs=nnx.Rngs(0)), tmp_path / "model.safetensors")


@pytest.fixture
def passing_through() -> ResNet:
    """A network whose first convolution gives each of the three colours as it is, over and over."""
    model = ResNet(8, rngs=nnx.Rngs(0))
    kernel = np.zeros((3, 3, 3, 16), np.float32)
    kernel[1, 1] = np.eye(3)[:, np.arange(16) % 3]
    model.convolution.kernel[...] = kernel
    return model


def training_loop(images: np.ndarray, validation: np.ndarray | None = None) -> jl.TrainingLoop:
    """One step an epoch."""
    labels = np.zeros(len(images), np.int32)
    return jl.TrainingLoop(
        jl.TrainingEpochs((images, labels), len(images)),
        None if validation is None else jl.in_batches((validation, np.zeros(len(validation), np.int32)), 4),
        optimizer=optax.sgd(0.0),
        loss_fn=jl.losses.softmax_cross_entropy,
        progress=False,
    )


def test_the_running_statistics_move_by_a_tenth_of_the_way_to_those_of_the_batch(passing_through):
    images = random_images(8) + 1.5
    loop, _ = training_loop(images).fit(passing_through, 1)
    norm = loop.model.unwrap().norm
    colours = np.arange(16) % 3
    np.testing.assert_allclose(norm.mean[...], 0.1 * images.mean(axis=(0, 1, 2))[colours], rtol=1e-5)
    np.testing.assert_allclose(norm.var[...], 0.9 + 0.1 * images.var(axis=(0, 1, 2))[colours], rtol=1e-5)


def test_validation_leaves_the_running_statistics_as_they_were(passing_through):
    images = random_images(8)
    alone, _ = training_loop(images).fit(passing_through, 1)
    validated, _ = training_loop(images, random_images(8, seed=2) + 9).fit(passing_through, 1)
    jax.tree.map(np.testing.assert_array_equal, alone.model.state, validated.model.state)


def test_in_inference_an_image_has_the_same_logits_whatever_is_beside_it():
    images = random_images(8)
    images[4:] += 100
    fit = training_loop(images)
    model = ResNet(8, rngs=nnx.Rngs(0))
    beside_others = fit.predict(model, jl.in_batches(images, 8))
    alone = fit.predict(model, jl.in_batches(images[:4], 8))
    np.testing.assert_allclose(beside_others[:4], alone, rtol=1e-5, atol=1e-6)
