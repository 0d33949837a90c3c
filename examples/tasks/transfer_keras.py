"""`transfer.py` in Keras."""
# pyright: reportMissingImports=false

import os

os.environ["KERAS_BACKEND"] = "jax"

import keras
from tasks_data import old_and_new_digits


class Scaled(keras.optimizers.Adam):
    """Adam with a tenth of the learning rate in the body. Keras has no groups of parameters."""

    def update_step(self, gradient, variable, learning_rate):
        scale = 0.1 if "body" in variable.path else 1.0
        super().update_step(gradient, variable, scale * learning_rate)


old, new, test = old_and_new_digits()
keras.utils.set_random_seed(0)
settings = {"loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True), "metrics": ["accuracy"]}
body = keras.layers.Dense(64, activation="relu", name="body")
before = keras.Sequential([keras.Input((64,)), body, keras.layers.Dense(5)])
before.compile(keras.optimizers.Adam(1e-3), **settings)
before.fit(*old, batch_size=25, epochs=10)

model = keras.Sequential([keras.Input((64,)), body, keras.layers.Dense(5)])
steps, warm = 40 * (len(new[1]) // 25), 4 * (len(new[1]) // 25)
schedule = keras.optimizers.schedules.CosineDecay(0.0, steps - warm, warmup_target=1e-2, warmup_steps=warm)
model.compile(Scaled(schedule), **settings)
history = model.fit(*new, batch_size=25, epochs=40)
_, accuracy = model.evaluate(*test)
print(f"Test accuracy after {len(new[1])} examples: {accuracy:.2%}")
