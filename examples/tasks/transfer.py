"""A body that has learned other digits before, with a new head: a small learning rate and a large one."""

import optax
from flax import nnx
from tasks_data import old_and_new_digits

import jaxloop as jl


class Classifier(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.body = nnx.Linear(64, 64, rngs=rngs)
        self.head = nnx.Linear(64, 5, rngs=rngs)

    def __call__(self, images):
        return self.head(nnx.relu(self.body(images)))


old, new, test = old_and_new_digits()
settings = {"loss_fn": jl.losses.softmax_cross_entropy, "metrics": ["accuracy"], "batch_size": 25}
before, _ = jl.TrainingLoop(old, optimizer=optax.adam(1e-3), **settings).fit(Classifier(nnx.Rngs(0)), epochs=10)
model = before.model.unwrap()
model.head = nnx.Linear(64, 5, rngs=nnx.Rngs(1))

adam = optax.inject_hyperparams(optax.adam)(learning_rate=0.0)
optimizer = optax.partition({"body": adam, "head": adam}, {"body": "body", "head": "head"})
rates = jl.callbacks.learning_rate_scheduler(jl.warmup_cosine(1e-2, warmup=0.1), scale={"body": 0.1, "head": 1.0})
training_loop = jl.TrainingLoop(new, optimizer=optimizer, callbacks=[rates], **settings)
loop, history = training_loop.fit(model, epochs=40)
accuracy = training_loop.evaluate(loop, test)["accuracy"]
print(f"Test accuracy after {len(new[1])} examples: {accuracy:.2%}")
