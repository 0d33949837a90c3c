"""Trains a variational autoencoder on MNIST, and draws digits that it invents.

Losses are in nats per image. In evaluation a code is its mean, without noise. The loss that is measured then is not a
bound of the likelihood, and is lower than in training.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from command_line import checkpoints, fit_options, make_parser
from datasets.mnist import load_mnist
from flax import nnx
from models.vae import VAE, divergence, reconstruction_loss
from pictures import save_grid

import jaxloop as jl

EPOCHS = 10
BATCH_SIZE = 128
LEARNING_RATE = 1e-3
CODE_SIZE = 20
CSV = "run/vae/log.csv"


def variational_step(model: jl.Model, loop: jl.Loop) -> tuple[jax.Array, jl.Loop]:
    """The negative evidence lower bound of each image, float32[batch]: reconstruction and divergence together."""
    shape = (len(loop.input), CODE_SIZE)
    noise = jax.random.normal(loop.step_key("noise"), shape) if model.training else jnp.zeros(shape)
    output, model = model.forward((loop.input, noise))
    loss = reconstruction_loss(output, loop.target) + divergence(output, loop.target)
    return loss, loop.replace(output=output, model=model)


def main() -> None:
    parser = make_parser(__doc__, epochs=EPOCHS, batch_size=BATCH_SIZE, csv=CSV, data="the folder mnist")
    parser.add_argument("--samples", default="run/vae/samples.png", help="the file for the digits that it invents")
    arguments = parser.parse_args()

    (training_images, _), (test_images, _) = load_mnist(arguments.data_dir)

    model = VAE(CODE_SIZE, rngs=nnx.Rngs(arguments.seed))

    training_loop = jl.TrainingLoop(
        training=jl.TrainingEpochs((training_images, training_images), arguments.batch_size, seed=arguments.seed),
        validation=jl.in_batches((test_images, test_images), arguments.batch_size),
        optimizer=optax.inject_hyperparams(optax.adam)(learning_rate=LEARNING_RATE),
        differentiable_step=variational_step,
        metrics=[jl.metrics.Mean(reconstruction_loss, "reconstruction"), jl.metrics.Mean(divergence, "divergence")],
        callbacks=[jl.callbacks.CSVLogger(arguments.csv), *checkpoints(arguments.checkpoint_dir)],
        steps_per_dispatch=arguments.steps_per_dispatch,
    )

    if arguments.explain:
        jl.explain(training_loop, model, epochs=arguments.epochs, on=arguments.device)
        return

    loop, history = training_loop.fit(model, arguments.epochs, **fit_options(arguments))
    if history.stopped == "preempted":
        return
    if arguments.plot:
        history.plot(arguments.plot)

    codes = jax.random.normal(jax.random.key(arguments.seed), (100, CODE_SIZE))
    digits = nnx.sigmoid(loop.model.unwrap().decode(codes))
    save_grid(arguments.samples, np.asarray(digits)[..., 0], columns=10)

    loss, reconstruction, kl = (
        history.epochs[f"validation_{name}"][-1] for name in ("loss", "reconstruction", "divergence")
    )
    print(f"Test loss: {loss:.1f} nats an image ({reconstruction:.1f} reconstruction, {kl:.1f} divergence)")


if __name__ == "__main__":
    main()
