"""`tabular.py` in Keras."""
# pyright: reportMissingImports=false

import os
from pathlib import Path

os.environ["KERAS_BACKEND"] = "jax"

import keras
import numpy as np
from tasks_data import tabular

training, validation, test = tabular()
keras.utils.set_random_seed(0)
model = keras.Sequential([keras.Input((30,)), keras.layers.Dense(32, activation="relu"), keras.layers.Dense(2)])
class_weights = len(training[1]) / (2 * np.bincount(training[1]))

model.compile(
    optimizer=keras.optimizers.Adam(3e-3),
    loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
)
history = model.fit(
    *training,
    validation_data=validation,
    batch_size=32,
    epochs=100,
    class_weight=dict(enumerate(class_weights)),
    callbacks=[keras.callbacks.EarlyStopping(patience=5, restore_best_weights=True)],
)
Path("run").mkdir(exist_ok=True)
model.save_weights("run/tabular.weights.h5")

model.load_weights("run/tabular.weights.h5")
_, accuracy = model.evaluate(*test)
print(f"Stopped after {len(history.history['loss'])} epochs. Test accuracy: {accuracy:.2%}")
