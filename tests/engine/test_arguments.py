"""Arguments of `TrainingLoop` and `fit` that are refused before anything else."""

from typing import Any

import optax
import pytest
from flax import nnx

import jaxloop as jl
from tests import small


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training": jl.in_batches(small.samples(8), 4)}, "`training` must be epochs of batches"),
        ({"loss_fn": None}, "give `loss_fn`, or `differentiable_step`"),
        ({"loss_fn": 3}, "`loss_fn` must be a function"),
        ({"loss_fn": [len, len]}, r"Write loss_fn=\{0: \.\.\., 1: \.\.\.\}, a loss by the place of each output"),
        ({"optimizer": 0.1}, "`optimizer` must be an optax transformation, got 0.1"),
        (
            {"optimizer": nnx.Optimizer(nnx.Linear(2, 2, rngs=nnx.Rngs(0)), optax.sgd(0.1), wrt=nnx.Param)},
            "optimizer.tx",
        ),
        ({"report": "step"}, "`report` must be 'batch' or 'epoch', got 'step'"),
        ({"on_recompile": "ignore"}, "`on_recompile` must be 'raise' or 'warn', got 'ignore'"),
        ({"steps_per_dispatch": 0}, "steps_per_dispatch: .* at least 1, got 0"),
        ({"metrics": ["acuracy"]}, "'acuracy' is not known. Known by name: accuracy, loss"),
        ({"callbacks": jl.callbacks.clip_by_global_norm(1.0)}, "Put it in brackets"),
        ({"callbacks": [3]}, "a function of .loop, event., got 3"),
        ({"callbacks": [jl.callbacks.CSVLogger]}, r"CSVLogger is a class; call it: CSVLogger\(\.\.\.\)"),
    ],
)
def test_a_wrong_argument_is_refused_before_anything_else(changes: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        small.training_loop(**changes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epochs": 0}, "epochs: .* at least 1, got 0"),
        ({"epochs": 1.5}, "epochs: .* got 1.5"),
        ({"epochs": 2**31}, "epochs: a loop counts to 2,147,483,647 at most, got 2,147,483,648. Give fewer"),
        ({"epochs": None, "steps": 10**12}, "steps: a loop counts to 2,147,483,647 at most, got 1,000,000,000,000"),
        ({"limit_batches": 0}, "limit_batches: .* at least 1"),
        ({"on": "tpu:7"}, "no device 'tpu:7' here; there are: cpu:0"),
        ({"model_or_loop": object()}, "expected a jaxloop.Model, a jaxloop.Loop, a flax.nnx.Module.* got object"),
        ({"model_or_loop": {"params": {}}}, r"got dict.*jaxloop.Model.from_linen\(module, variables\)"),
    ],
)
def test_a_wrong_argument_of_fit_is_refused(arguments: dict[str, Any], message: str) -> None:
    arguments = {"model_or_loop": small.model(), "epochs": 1} | arguments
    with pytest.raises((TypeError, ValueError), match=message):
        small.training_loop().fit(arguments.pop("model_or_loop"), **arguments)
