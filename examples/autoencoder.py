"""Trains an autoencoder on MNIST. After each epoch it saves images, and below them the model's outputs.

It is the sample Autoencoder1D of Swift for TensorFlow's model garden, which uses Fashion-MNIST.
"""

import optax
from command_line import checkpoints, fit_options, make_parser
from datasets.mnist import load_mnist
from flax import nnx
from models.autoencoder import Autoencoder

import jaxloop as jl

EPOCHS = 10
BATCH_SIZE = 128
LEARNING_RATE = 3e-3
CSV = "run/autoencoder/log.csv"


def main() -> None:
    parser = make_parser(__doc__, epochs=EPOCHS, batch_size=BATCH_SIZE, csv=CSV, data="the folder mnist")
    parser.add_argument("--images", default="run/autoencoder", help="the folder of the images, with one file per epoch")
    arguments = parser.parse_args()

    (training_images, _), (test_images, _) = load_mnist(arguments.data_dir)

    model = Autoencoder(rngs=nnx.Rngs(arguments.seed))

    training_loop = jl.TrainingLoop(
        training=jl.TrainingEpochs((training_images, training_images), arguments.batch_size, seed=arguments.seed),
        validation=jl.in_batches((test_images, test_images), arguments.batch_size),
        optimizer=optax.inject_hyperparams(optax.adam)(learning_rate=LEARNING_RATE),
        loss_fn=jl.losses.mean_squared_error,
        callbacks=[
            jl.callbacks.ImageSaver(arguments.images),
            jl.callbacks.CSVLogger(arguments.csv),
            *checkpoints(arguments.checkpoint_dir),
        ],
        steps_per_dispatch=arguments.steps_per_dispatch,
    )

    if arguments.explain:
        jl.explain(training_loop, model, epochs=arguments.epochs, on=arguments.device)
        return

    _, history = training_loop.fit(model, arguments.epochs, **fit_options(arguments))
    if history.stopped == "preempted":
        return
    if arguments.plot:
        history.plot(arguments.plot)
    print(f"Test mean squared error: {history.epochs['validation_loss'][-1]:.4f}")


if __name__ == "__main__":
    main()
