"""Loops that are written by hand in JAX."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxloop as jl
from benchmarks.contestants import Outcome, Turn
from benchmarks.workloads import Workload, loss_fn


def by_hand(workload: Workload, epochs: int) -> Turn:
    """The best plain loop: jitted, donated, loss and accuracy summed on the device and fetched once an epoch."""
    step = jax.jit(functools.partial(_step, workload, workload.optimizer), donate_argnums=0)

    def train_epoch(carry: Any, batches: jl.Batches) -> Any:
        for batch in batches:
            carry = step(carry, batch)
        return carry

    return _turn(workload, epochs, train_epoch)


def scan_by_hand(workload: Workload, epochs: int, *, length: int, unroll: bool = False) -> Turn:
    """The same with `length` steps in one program by `lax.scan`, over batches that are gathered at once.

    Unrolled it compiles slowly, but then convolutions are not in a loop, where XLA's CPU backend is slow.
    """
    optimizer = workload.optimizer

    def steps(carry: Any, batches: Any) -> Any:
        def one(carry: Any, batch: Any) -> tuple[Any, None]:
            return _step(workload, optimizer, carry, batch), None

        return jax.lax.scan(one, carry, batches, unroll=unroll)[0]

    jitted = jax.jit(steps, donate_argnums=0)

    def train_epoch(carry: Any, batches: jl.Batches) -> Any:
        for start in range(0, len(batches), length):
            carry = jitted(carry, batches.stacked(start, min(length, len(batches) - start)))
        return carry

    return _turn(workload, epochs, train_epoch)


def _step(workload: Workload, optimizer: optax.GradientTransformation, carry: Any, batch: Any) -> Any:
    """One plain step of training. The carry is params, state, opt_state and the sums of the epoch."""
    params, state, opt_state, sums = carry
    input, labels = batch

    def mean_loss(params: Any) -> tuple[jax.Array, Any]:
        logits, after = workload.model.apply(params, state, input, training=True, key=None)
        return loss_fn(logits, labels).mean(), (logits, after)

    (loss, (logits, state)), gradient = jax.value_and_grad(mean_loss, has_aux=True)(params)
    updates, opt_state = optimizer.update(gradient, opt_state, params)
    accuracy = (logits.argmax(axis=-1) == labels).mean()
    sums = {"loss": sums["loss"] + loss, "accuracy": sums["accuracy"] + accuracy}
    return optax.apply_updates(params, updates), state, opt_state, sums


def _turn(workload: Workload, epochs: int, train_epoch: Callable[[Any, jl.Batches], Any]) -> Turn:
    training = workload.training()
    init_optimizer = jax.jit(workload.optimizer.init)

    def turn() -> Outcome:
        params, state = jax.device_put((workload.model.params, workload.model.state), may_alias=False)
        opt_state = init_optimizer(params)
        epoch_sums = []
        for epoch_index in range(epochs):
            sums = {"loss": jnp.float32(0), "accuracy": jnp.float32(0)}
            carry = (params, state, opt_state, sums)
            params, state, opt_state, sums = train_epoch(carry, training[epoch_index])
            epoch_sums.append(jax.device_get(sums))
        loss, accuracy = (
            np.array([sums[name] for sums in epoch_sums]) / workload.step_count for name in ("loss", "accuracy")
        )
        return Outcome(jax.tree.leaves(params), loss, accuracy)

    return turn
