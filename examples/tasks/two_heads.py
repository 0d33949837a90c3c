"""One body with two heads, a loss and a metric for each: which digit it is, and whether it is odd."""

import optax
from flax import nnx
from tasks_data import digits

import jaxloop as jl


class TwoHeads(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.body = nnx.Linear(64, 64, rngs=rngs)
        self.digit = nnx.Linear(64, 10, rngs=rngs)
        self.parity = nnx.Linear(64, 2, rngs=rngs)

    def __call__(self, images):
        features = nnx.relu(self.body(images))
        return {"digit": self.digit(features), "parity": self.parity(features)}


training, validation = ((images, {"digit": labels, "parity": labels % 2}) for images, labels in digits())
training_loop = jl.TrainingLoop(
    training=training,
    validation=validation,
    batch_size=32,
    optimizer=optax.adam(1e-3),
    loss_fn={"digit": jl.losses.softmax_cross_entropy, "parity": (jl.losses.softmax_cross_entropy, 0.5)},
    metrics=[jl.metrics.Accuracy(output="digit"), jl.metrics.Accuracy(output="parity")],
)
loop, history = training_loop.fit(TwoHeads(nnx.Rngs(0)), epochs=15)
accuracies = {head: history.epochs[f"validation_{head}_accuracy"][-1] for head in ("digit", "parity")}
print(f"Validation accuracy: {accuracies['digit']:.2%} for the digit, {accuracies['parity']:.2%} for its parity")
