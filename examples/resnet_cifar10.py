"""Trains a residual network on CIFAR-10: in minutes, or as in the paper, or as in Swift for TensorFlow's sample."""

import functools
from dataclasses import dataclass
from datetime import timedelta

import jax
import optax
from command_line import checkpoints, fit_options, make_parser
from datasets.augmentation import crop_and_flip
from datasets.cifar10 import load_cifar10, normalize
from flax import nnx
from models.resnet import ResNet, Shortcut

import jaxloop as jl

CSV = "run/resnet_cifar10/log.csv"
SAVE_EVERY = timedelta(minutes=5)


@dataclass(frozen=True)
class Recipe:
    """How the network is trained. Depth, epochs and batch size are the defaults of their flags."""

    depth: int
    epochs: int
    batch_size: int
    rate: list[jl.ScheduleSegment]
    momentum: float | None = 0.9
    weight_decay: float = 0.0
    augmented: bool = True
    shortcut: Shortcut = "pad"

    @property
    def optimizer(self) -> optax.GradientTransformation:
        """SGD with weight decay only for kernels: not for biases, and not for the scales of normalization."""
        decay = optax.add_decayed_weights(
            self.weight_decay, mask=functools.partial(jax.tree.map, lambda leaf: leaf.ndim > 1)
        )
        return optax.chain(decay, optax.inject_hyperparams(optax.sgd)(learning_rate=0.0, momentum=self.momentum))


def constant(rate: float, step_count: int | None = None) -> jl.ScheduleSegment:
    """A segment with a constant rate."""
    return jl.ScheduleSegment(jl.shapes.linear, start_rate=rate, end_rate=rate, step_count=step_count)


# The paper divides the rate by 10 at steps 32,000 and 48,000 of 64,000; 164 epochs have 63,960. A segment shares its
# first step with the segment before, which gives the rate at that step: so the second segment has one step more.
PAPER_RATE = [constant(0.1, 32_000), constant(0.01, 16_001), constant(0.001)]
RECIPES = {
    "short": Recipe(20, 3, 128, jl.one_cycle(0.2, rise=0.3, fall=0.6), weight_decay=5e-4),
    "paper": Recipe(20, 164, 128, PAPER_RATE, weight_decay=1e-4),
    "ancestor": Recipe(56, 10, 10, [constant(0.001)], momentum=None, augmented=False, shortcut="project"),
}


def main() -> None:
    short = RECIPES["short"]
    parser = make_parser(__doc__, epochs=short.epochs, batch_size=short.batch_size, csv=CSV, data="the folder cifar10")
    parser.add_argument(
        "--recipe", choices=RECIPES, default="short", help="how to train; it also sets the defaults of other flags"
    )
    parser.add_argument(
        "--depth", type=int, choices=[20, 32, 44, 56], default=short.depth, help="the depth of the network"
    )
    recipe = RECIPES[parser.parse_known_args()[0].recipe]
    parser.set_defaults(depth=recipe.depth, epochs=recipe.epochs, batch_size=recipe.batch_size)
    arguments = parser.parse_args()

    training, test = load_cifar10(arguments.data_dir)

    model = ResNet(arguments.depth, shortcut=recipe.shortcut, rngs=nnx.Rngs(arguments.seed))

    training_loop = jl.TrainingLoop(
        training=jl.TrainingEpochs(training, arguments.batch_size, seed=arguments.seed).map(normalize, compiled=True),
        validation=jl.in_batches(test, arguments.batch_size).map(normalize, compiled=True),
        optimizer=recipe.optimizer,
        loss_fn=jl.losses.softmax_cross_entropy,
        metrics=["accuracy"],
        callbacks=[
            jl.callbacks.learning_rate_scheduler(jl.make_schedule(recipe.rate)),
            *([crop_and_flip()] if recipe.augmented else []),
            jl.callbacks.CSVLogger(arguments.csv),
            *checkpoints(arguments.checkpoint_dir, SAVE_EVERY),
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
    print(f"Test accuracy: {history.epochs['validation_accuracy'][-1]:.2%}")


if __name__ == "__main__":
    main()
