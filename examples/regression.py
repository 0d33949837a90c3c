"""Predicts the progress of diabetes after a year from ten measurements of a patient, and compares with simpler methods.

It takes seconds, and downloads nothing.
"""

import numpy as np
import optax
from command_line import checkpoints, fit_options, make_parser
from datasets.diabetes import Samples, load_diabetes
from flax import nnx
from models.mlp import MLP

import jaxloop as jl

# Chosen by cross-validation on the training part, so that the held-out part has no influence on them.
EPOCHS = 20
BATCH_SIZE = 32
LEARNING_RATE = 3e-3
WEIGHT_DECAY = 1.0
SIZES = (10, 16, 1)
CSV = "run/regression/log.csv"


def main() -> None:
    arguments = make_parser(__doc__, epochs=EPOCHS, batch_size=BATCH_SIZE, csv=CSV).parse_args()

    training, validation, unit = load_diabetes()

    model = MLP(SIZES, rngs=nnx.Rngs(arguments.seed))

    optimizer = optax.inject_hyperparams(optax.adamw)(learning_rate=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    training_loop = jl.TrainingLoop(
        training=jl.TrainingEpochs(training, arguments.batch_size, seed=arguments.seed),
        validation=jl.in_batches(validation, arguments.batch_size),
        optimizer=optimizer,
        loss_fn=jl.losses.mean_absolute_error,
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
    print("Validation mean absolute error, on a scale from 25 to 346")
    print(f"  median of the training targets: {unit * error_of_median(training, validation):.1f}")
    print(f"  linear regression: {unit * error_of_least_squares(training, validation):.1f}")
    print(f"  this network: {unit * history.epochs['validation_loss'][-1]:.1f}")


def error_of_median(training: Samples, validation: Samples) -> float:
    """The mean absolute error of the best constant prediction: the median, without any knowledge of the patients."""
    return float(np.mean(np.abs(validation[1] - np.median(training[1]))))


def error_of_least_squares(training: Samples, validation: Samples) -> float:
    """The mean absolute error of linear regression, fitted by least squares."""
    features, held_out = (np.column_stack([inputs, np.ones(len(inputs))]) for inputs, _ in (training, validation))
    coefficients = np.linalg.lstsq(features, training[1])[0]
    return float(np.mean(np.abs(validation[1] - held_out @ coefficients)))


if __name__ == "__main__":
    main()
