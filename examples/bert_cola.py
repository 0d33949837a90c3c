"""Trains BERT on CoLA to recognize acceptable sentences: from a checkpoint, or a small one from random weights."""

import argparse
import functools
from datetime import timedelta
from pathlib import Path

import numpy as np
import optax
from command_line import checkpoints, fit_options, make_parser
from datasets.cola import load_cola
from datasets.word_pieces import load_word_pieces
from flax import nnx
from models.bert import BASE, PAD, TINY, BertClassifier, load_checkpoint

import jaxloop as jl

CONFIGS = {"tiny": TINY, "base": BASE}
EPOCHS = {"tiny": 8, "base": 3}
LEARNING_RATE = {"tiny": 5e-4, "base": 2e-5}
BATCH_SIZE = 32
LENGTHS = (12, 24, 48)  # sentences are padded to these; the longest has 47 tokens
CSV = "run/bert_cola/log.csv"
SAVE_EVERY = timedelta(minutes=5)


def token_count(sample: tuple[np.ndarray, np.integer]) -> int:
    tokens, _ = sample
    return len(tokens)


def warmup_then_decay(rate: float) -> list[jl.ScheduleSegment]:
    return [
        jl.ScheduleSegment(jl.shapes.linear, end_rate=rate, step_count=10),
        jl.ScheduleSegment(jl.shapes.linear, end_rate=0.0),
    ]


def parse_arguments() -> argparse.Namespace:
    data = "the folders cola and vocab (vocab.txt)"
    parser = make_parser(__doc__, epochs=None, batch_size=BATCH_SIZE, csv=CSV, data=data)
    parser.add_argument(
        "--config", choices=CONFIGS, default="tiny", help=f"the size of the model; its epochs are {EPOCHS}"
    )
    parser.add_argument("--checkpoint", type=Path, help="weights to start from: bert-base-uncased's model.safetensors")
    arguments = parser.parse_args()
    if arguments.config == "base" and arguments.checkpoint is None:
        parser.error("--config base learns little from random weights: give --checkpoint, or take --config tiny")
    if arguments.epochs is None:
        arguments.epochs = EPOCHS[arguments.config]
    return arguments


def main() -> None:
    arguments = parse_arguments()
    config = CONFIGS[arguments.config]

    tokenize = load_word_pieces(arguments.data_dir, vocabulary_size=config.vocabulary_size, max_length=max(LENGTHS))
    training, in_domain, out_of_domain = (
        list(zip(tokenize(part.texts), part.labels, strict=True)) for part in load_cola(arguments.data_dir)
    )
    pad = functools.partial(jl.pad_and_collate, pad_value=(PAD, None), lengths=LENGTHS)
    in_batches = functools.partial(jl.in_batches, size=token_count, collate=pad, lengths=LENGTHS)

    model = BertClassifier(config, rngs=nnx.Rngs(arguments.seed))
    if arguments.checkpoint is not None:
        load_checkpoint(model, arguments.checkpoint)

    rate = LEARNING_RATE[arguments.config]
    training_loop = jl.TrainingLoop(
        training=jl.NonuniformTrainingEpochs(
            training, arguments.batch_size, seed=arguments.seed, size=token_count, collate=pad, lengths=LENGTHS
        ),
        validation=in_batches(in_domain, arguments.batch_size),
        optimizer=optax.inject_hyperparams(optax.adam)(learning_rate=rate),
        loss_fn=jl.losses.sigmoid_cross_entropy,
        metrics=["accuracy", "matthews_correlation_coefficient"],
        callbacks=[
            jl.callbacks.learning_rate_scheduler(jl.make_schedule(warmup_then_decay(rate))),
            jl.callbacks.clip_by_global_norm(1.0),
            jl.callbacks.CSVLogger(arguments.csv),
            *checkpoints(arguments.checkpoint_dir, SAVE_EVERY),
        ],
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
    elsewhere = training_loop.evaluate(loop, in_batches(out_of_domain, arguments.batch_size), on=arguments.device)
    print(f"Matthews correlation in domain: {history.epochs['validation_matthews_correlation_coefficient'][-1]:.3f}")
    print(f"Matthews correlation out of domain: {elsewhere['matthews_correlation_coefficient']:.3f}")


if __name__ == "__main__":
    main()
