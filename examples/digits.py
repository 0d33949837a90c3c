"""Trains a small convolutional network on scikit-learn's digits. It takes seconds, and downloads nothing."""

import optax
from command_line import checkpoints, fit_options, make_parser
from datasets.digits import load_digits
from flax import nnx
from models.small_cnn import SmallCNN

import jaxloop as jl

EPOCHS = 15
BATCH_SIZE = 32
LEARNING_RATE = 2e-3
CSV = "run/digits/log.csv"


def main() -> None:
    arguments = make_parser(__doc__, epochs=EPOCHS, batch_size=BATCH_SIZE, csv=CSV).parse_args()

    training, validation = load_digits()

    model = SmallCNN(rngs=nnx.Rngs(arguments.seed))

    training_loop = jl.TrainingLoop(
        training=jl.TrainingEpochs(training, arguments.batch_size, seed=arguments.seed),
        validation=jl.in_batches(validation, arguments.batch_size),
        optimizer=optax.inject_hyperparams(optax.adam)(learning_rate=LEARNING_RATE),
        loss_fn=jl.losses.softmax_cross_entropy,
        metrics=["accuracy"],
        callbacks=[jl.callbacks.CSVLogger(arguments.csv), *checkpoints(arguments.checkpoint_dir)],
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
    print(f"Validation accuracy: {history.epochs['validation_accuracy'][-1]:.2%}")


if __name__ == "__main__":
    main()
