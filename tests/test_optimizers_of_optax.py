"""Each optimizer of optax and optax.contrib trains as in a plain loop by hand."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest
from optax import contrib

import jaxloop as jl
from tests import small

EPOCHS = jl.TrainingEpochs(small.samples(32), batch_size=4)
RATE = 0.05

#: What takes more than a learning rate, or none.
SPECIAL: dict[str, Callable[[], Any]] = {
    "polyak_sgd": lambda: optax.polyak_sgd(),
    "schedule_free": lambda: contrib.schedule_free(optax.sgd(RATE), RATE),
    "mechanize": lambda: contrib.mechanize(optax.sgd(1.0)),
    "noisy_sgd": lambda: optax.noisy_sgd(RATE, key=0),
    "sam": lambda: contrib.sam(optax.sgd(RATE), optax.chain(contrib.normalize(), optax.sgd(0.05))),
    "sam, opaque": lambda: contrib.sam(
        optax.sgd(RATE), optax.chain(contrib.normalize(), optax.sgd(0.05)), opaque_mode=True
    ),
    "sam in a chain": lambda: optax.chain(optax.clip(1.0), SPECIAL["sam"]()),
    "reduce_on_plateau": lambda: optax.chain(optax.sgd(RATE), contrib.reduce_on_plateau(patience=2)),
    "split_real_and_imaginary": lambda: contrib.split_real_and_imaginary(optax.adam(RATE)),
    "backtracking line search": lambda: optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(10)),
    "MultiSteps": lambda: optax.MultiSteps(optax.adam(RATE), every_k_schedule=2),
    "MultiSteps of L-BFGS": lambda: optax.MultiSteps(optax.lbfgs(), every_k_schedule=2),
    "inject_hyperparams of L-BFGS": lambda: optax.inject_hyperparams(
        optax.lbfgs, static_args=("memory_size", "scale_init_precond")
    )(learning_rate=0.5),
    "polyak_sgd, injected": lambda: optax.inject_hyperparams(optax.polyak_sgd)(max_learning_rate=0.5),
    "partition": lambda: optax.partition(
        {"a": optax.adam(RATE), "b": optax.polyak_sgd()}, {"kernel": "a", "bias": "b"}
    ),
    "freeze": lambda: optax.chain(optax.sgd(RATE), optax.freeze({"kernel": False, "bias": True})),
    "apply_if_finite": lambda: optax.apply_if_finite(optax.adam(RATE), 3),
    "flatten": lambda: optax.flatten(optax.adam(RATE)),
    "apply_every": lambda: optax.chain(optax.apply_every(2), optax.sgd(RATE)),
}
REFUSED = {"lookahead", "dpsgd", "differentially_private_aggregate"}


def with_a_rate() -> dict[str, Any]:
    """The optimizers that take a learning rate, by name."""
    found = {}
    for module in (optax, contrib):
        for name, function in inspect.getmembers(module, inspect.isfunction):
            signature = inspect.signature(function)
            gives = "GradientTransformation" in str(signature.return_annotation)
            if gives and "learning_rate" in signature.parameters and not name.startswith(("scale", "_")):
                found[name] = function
    return found


def optimizer_of(name: str) -> Any:
    if name in SPECIAL:
        return SPECIAL[name]()
    function = with_a_rate()[name]
    required = inspect.signature(function).parameters["learning_rate"].default is inspect.Parameter.empty
    return function(learning_rate=RATE) if required else function()


def train_by_hand(name: str, epochs: int = 1) -> Any:
    """Parameters of a plain loop that gives each optimizer what its documentation says."""
    optimizer, params = optimizer_of(name), jax.tree.map(jnp.asarray, small.model().params)
    state = optimizer.init(params)

    @jax.jit
    def step(params: Any, state: Any, input: Any, target: Any) -> Any:
        def loss(params: Any) -> Any:
            logits = input @ params["kernel"] + params["bias"]
            return optax.softmax_cross_entropy_with_integer_labels(logits, target).mean()

        value, gradient = jax.value_and_grad(loss)(params)
        if "bfgs" in name.lower() or "line search" in name:
            extra = {"value": value, "grad": gradient, "value_fn": loss}
        elif name == "sophia":
            extra = {"obj_fn": loss}
        elif name.startswith("sam"):
            extra = {"grad_fn": lambda params, _: jax.grad(loss)(params)} if name == "sam, opaque" else {}
        elif name.startswith(("momo", "polyak", "reduce_on_plateau", "partition")):
            extra = {"value": value}
        else:
            extra = {}
        updates, state = optimizer.update(gradient, state, params, **extra)
        return optax.apply_updates(params, updates), state

    for epoch in range(epochs):
        for input, target in EPOCHS[epoch]:
            params, state = step(params, state, input, target)
    return params


NAMES = sorted((with_a_rate().keys() | SPECIAL.keys()) - REFUSED)
#: One of each kind; the others take as long, and say the same.
QUICK = {"adamw", "lbfgs", "polyak_sgd", "sam, opaque", "sam in a chain", "schedule_free", "mechanize", "muon"}


def cases() -> list[Any]:
    marks = dict.fromkeys(set(NAMES) - QUICK, (pytest.mark.exhaustive,))
    return [pytest.param(name, marks=marks.get(name, ())) for name in NAMES]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", cases())
def test_an_optimizer_trains_as_in_a_plain_loop(name: str) -> None:
    expected = train_by_hand(name)
    for steps in (1, 8):
        training_loop = small.training_loop(
            training=EPOCHS, validation=None, optimizer=optimizer_of(name), metrics=[], steps_per_dispatch=steps
        )
        loop, _ = training_loop.fit(small.model(), 1)
        assert int(loop.model.state["passes"]) == 8, "a line search leaves no trace in the state"
        small.assert_close(loop.model.params, expected)
