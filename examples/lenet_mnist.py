"""Trains LeNet-5 on MNIST, like the sample LeNet-MNIST of Swift for TensorFlow's model garden."""

import optax
from command_line import checkpoints, fit_options, make_parser
from datasets.mnist import load_mnist
from flax import nnx
from models.lenet import LeNet

import jaxloop as jl

EPOCHS = 12
BATCH_SIZE = 128
LEARNING_RATE = 0.1
CSV = "run/lenet_mnist/log.csv"


def main() -> None:
    parser = make_parser(__doc__, epochs=EPOCHS, batch_size=BATCH_SIZE, csv=CSV, data="the folder mnist")
    parser.add_argument(
        "--report", choices=["epoch", "batch"], default="epoch", help="how often statistics are reported"
    )
    arguments = parser.parse_args()

    training, test = load_mnist(arguments.data_dir)

    model = LeNet(rngs=nnx.Rngs(arguments.seed))

    training_loop = jl.TrainingLoop(
        training=jl.TrainingEpochs(training, arguments.batch_size, seed=arguments.seed),
        validation=jl.in_batches(test, arguments.batch_size),
        optimizer=optax.inject_hyperparams(optax.sgd)(learning_rate=LEARNING_RATE),
        loss_fn=jl.losses.softmax_cross_entropy,
        metrics=["accuracy"],
        callbacks=[jl.callbacks.CSVLogger(arguments.csv), *checkpoints(arguments.checkpoint_dir)],
        steps_per_dispatch=arguments.steps_per_dispatch,
        report=arguments.report,
    )

    if arguments.explain:
        jl.explain(training_loop, model, epochs=arguments.epochs, on=arguments.device)
        return

    _, history = training_loop.fit(model, arguments.epochs, **fit_options(arguments))
    if history.stopped == "preempted":
        return
    if arguments.plot:
        history.plot(arguments.plot)
    print(f"Test accuracy: {history.epochs['validation_accuracy'][-1]:.2%}")


if __name__ == "__main__":
    main()
