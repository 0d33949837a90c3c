"""`two_heads.py` in Keras."""
# pyright: reportMissingImports=false

import os

os.environ["KERAS_BACKEND"] = "jax"

import keras
from tasks_data import digits

training, validation = ((images, {"digit": labels, "parity": labels % 2}) for images, labels in digits())
keras.utils.set_random_seed(0)
images = keras.Input((64,))
features = keras.layers.Dense(64, activation="relu")(images)
heads = {
    "digit": keras.layers.Dense(10, name="digit")(features),
    "parity": keras.layers.Dense(2, name="parity")(features),
}
model = keras.Model(images, heads)
cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile(
    optimizer=keras.optimizers.Adam(1e-3),
    loss={"digit": cross_entropy, "parity": cross_entropy},
    loss_weights={"digit": 1.0, "parity": 0.5},
    metrics={"digit": ["accuracy"], "parity": ["accuracy"]},
)
history = model.fit(*training, validation_data=validation, batch_size=32, epochs=15).history
accuracies = {head: history[f"val_{head}_accuracy"][-1] for head in ("digit", "parity")}
print(f"Validation accuracy: {accuracies['digit']:.2%} for the digit, {accuracies['parity']:.2%} for its parity")
