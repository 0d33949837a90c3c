"""`texts.py` in Keras."""
# pyright: reportMissingImports=false

import os

os.environ["KERAS_BACKEND"] = "jax"

import keras
import numpy as np
from tasks_data import VOCABULARY, texts

LENGTHS = (16, 32, 64)


class Batches(keras.utils.PyDataset):
    """Batches of texts of similar lengths, each padded to one of `LENGTHS`."""

    def __init__(self, samples, batch_size):
        super().__init__()
        self.random = np.random.default_rng(0)
        self.samples, self.batch_size = samples, batch_size
        self.on_epoch_begin()

    def on_epoch_begin(self):
        order = sorted(self.random.permutation(len(self.samples)), key=lambda index: len(self.samples[index][0]))
        self.batches = np.array_split(np.array(order), -(-len(order) // self.batch_size))
        self.random.shuffle(self.batches)

    def __len__(self):
        return -(-len(self.samples) // self.batch_size)

    def __getitem__(self, index):
        tokens, labels = zip(*(self.samples[place] for place in self.batches[index]), strict=True)
        length = min(length for length in LENGTHS if length >= max(map(len, tokens)))
        return keras.utils.pad_sequences(tokens, length, padding="post"), np.array(labels)


training, validation = texts()
keras.utils.set_random_seed(0)
model = keras.Sequential(
    [
        keras.layers.Embedding(VOCABULARY, 16, mask_zero=True),
        keras.layers.GlobalAveragePooling1D(),
        keras.layers.Dense(2),
    ]
)
model.compile(
    optimizer=keras.optimizers.Adam(1e-2),
    loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
)
history = model.fit(Batches(training, 32), validation_data=Batches(validation, 100), epochs=15).history
accuracy = history["val_accuracy"][-1]
print(f"Validation accuracy: {accuracy:.2%}")
