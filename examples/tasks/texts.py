"""Texts of many lengths, each batch padded to one of three, and padding that does not count."""

import functools

import optax
from flax import nnx
from tasks_data import VOCABULARY, texts

import jaxloop as jl

LENGTHS = (16, 32, 64)


class Classifier(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.embedding = nnx.Embed(VOCABULARY, 16, rngs=rngs)
        self.output = nnx.Linear(16, 2, rngs=rngs)

    def __call__(self, tokens):
        mask = (tokens != 0)[..., None]
        return self.output((self.embedding(tokens) * mask).sum(-2) / mask.sum(-2))


training, validation = texts()
pad = functools.partial(jl.pad_and_collate, pad_value=0, lengths=LENGTHS)
training_loop = jl.TrainingLoop(
    training=jl.NonuniformTrainingEpochs(training, 32, size=lambda text: len(text[0]), collate=pad, lengths=LENGTHS),
    validation=jl.in_batches(validation, 100, collate=pad),
    optimizer=optax.adam(1e-2),
    loss_fn=jl.losses.softmax_cross_entropy,
    metrics=["accuracy"],
)
loop, history = training_loop.fit(Classifier(nnx.Rngs(0)), epochs=15)
accuracy = history.epochs["validation_accuracy"][-1]
print(f"Validation accuracy: {accuracy:.2%}")
