"""Trains GPT-2 on WikiText-2, from random weights or from a checkpoint, like the sample of swift-models."""

import argparse
from datetime import timedelta

import jax
import optax
from command_line import checkpoints, fit_options, make_parser
from datasets.byte_pairs import load_byte_pairs
from datasets.wikitext2 import load_wikitext2
from flax import nnx
from models.gpt2 import CONFIGURATIONS, GPT2, load_checkpoint
from models.sampling import sample

import jaxloop as jl

EPOCHS = 10
BATCH_SIZES = {"tiny": 4, "small": 2, "medium": 2}  # for each device and microbatch
MESHES = {"data": jl.data_parallel, "fully-sharded": jl.fully_sharded}
LEARNING_RATE = 0.001
CSV = "run/gpt2_wikitext2/log.csv"
SAVE_EVERY = timedelta(minutes=5)
TENSORBOARD = "run/gpt2_wikitext2/tensorboard"
PROMPT, SAMPLE_LENGTH = "The", 40


def parse_arguments() -> argparse.Namespace:
    parser = make_parser(__doc__, epochs=EPOCHS, batch_size=None, csv=CSV, data="the folders wikitext2 and vocab")
    parser.add_argument(
        "--config", choices=CONFIGURATIONS, default="tiny", help="the size of the model; tiny is for a CPU"
    )
    parser.add_argument("--checkpoint", help="a .safetensors file of the published GPT-2 of that size, to start from")
    parser.add_argument(
        "--mesh", choices=MESHES, help="all devices: each with the whole model (data), or with a part (fully-sharded)"
    )
    parser.add_argument("--accumulate", type=int, default=1, help="as how many microbatches a step takes its batch")
    parser.add_argument("--bfloat16", action="store_true", help="compute in bfloat16; weights stay float32")
    parser.add_argument("--tensorboard", default=TENSORBOARD, help="the folder for TensorBoard's files")
    arguments = parser.parse_args()
    if arguments.mesh and arguments.device:
        parser.error("--mesh takes all devices, and --device one: give one of the two")
    if arguments.batch_size is None:
        all_devices = arguments.mesh or (arguments.device is None and jax.default_backend() != "cpu")
        parts = arguments.accumulate * (jax.device_count() if all_devices else 1)
        arguments.batch_size = BATCH_SIZES[arguments.config] * parts
    return arguments


def main() -> None:
    arguments = parse_arguments()
    configuration = CONFIGURATIONS[arguments.config]
    on = MESHES[arguments.mesh]() if arguments.mesh else arguments.device

    def make_model() -> GPT2:
        return GPT2(configuration, rngs=nnx.Rngs(arguments.seed))

    model = make_model  # `fit` calls it, so that each device makes only its own part
    if arguments.checkpoint:
        model = make_model()
        load_checkpoint(model, arguments.checkpoint)

    tokenizer = load_byte_pairs(arguments.data_dir)
    training, validation = load_wikitext2(tokenizer, configuration.context_length, arguments.data_dir)

    @jl.on_host(jl.Event.EPOCH_END, reads="loop")
    def show_text(loop: jl.Loop, event: jl.Event) -> None:
        prompt = tokenizer.encode(PROMPT).ids
        tokens = sample(loop.model.unwrap(), prompt, SAMPLE_LENGTH, key=loop.step_key("sample"), temperature=0.8)
        print(f"Sample: {PROMPT + tokenizer.decode(tokens)!r}")

    training_loop = jl.TrainingLoop(
        training=jl.TrainingEpochs(training, arguments.batch_size, seed=arguments.seed),
        validation=jl.in_batches(validation, arguments.batch_size),
        optimizer=optax.inject_hyperparams(optax.adam)(learning_rate=LEARNING_RATE),
        loss_fn=jl.losses.softmax_cross_entropy,
        metrics=["accuracy", "perplexity"],
        callbacks=[
            show_text,
            jl.callbacks.TensorBoardLogger(arguments.tensorboard),
            jl.callbacks.CSVLogger(arguments.csv),
            *checkpoints(arguments.checkpoint_dir, SAVE_EVERY),
        ],
        steps_per_dispatch=arguments.steps_per_dispatch,
        accumulate=arguments.accumulate,
        compute_dtype="bfloat16" if arguments.bfloat16 else None,
    )

    if arguments.explain:
        jl.explain(training_loop, model, epochs=arguments.epochs, on=on)
        return

    loop, history = training_loop.fit(model, arguments.epochs, **fit_options(arguments) | {"on": on})
    if history.stopped == "preempted":
        return
    if arguments.plot:
        history.plot(arguments.plot)
    print(jl.benchmark(training_loop, loop, calls=4, rounds=3, warmup=1, on=on))
    print(f"Validation perplexity: {history.epochs['validation_perplexity'][-1]:.1f}")


if __name__ == "__main__":
    main()
