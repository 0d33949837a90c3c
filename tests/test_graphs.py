"""Several graphs in one batch: their losses, weights and targets count the examples, whatever axes the inputs have."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxloop as jl
from jaxloop.losses import softmax_cross_entropy
from tests import small

GRAPHS = 3  # in a batch, of which the last is there to fill it up
NODES = 8


def of_graphs(params: Any, state: Any, input: Any, *, training: bool, key: Any) -> tuple[Any, Any]:
    """A classifier of graphs by the sum over their nodes, each with what its edges bring it."""
    nodes = jnp.asarray(input["nodes"]).at[input["edges"][:, 1]].add(input["nodes"][input["edges"][:, 0]])
    pooled = jax.ops.segment_sum(nodes, input["graph"], GRAPHS)
    return pooled @ params["kernel"] + params["bias"], state


MODEL = small.model(features=4, classes=3).replace(apply=of_graphs)


def batches(count: int, *, weighted: bool, seed: int = 0) -> list[tuple[Any, ...]]:
    random = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        input = {
            "edges": random.integers(0, 5, (11, 2)).astype(np.int32),
            "graph": np.sort(random.integers(0, GRAPHS, NODES)).astype(np.int32),
            "nodes": random.normal(size=(NODES, 4)).astype(np.float32),
        }
        target = random.integers(0, 3, GRAPHS).astype(np.int32)
        if weighted:
            target[-1] = -100
        weight = np.array([1, 1, 0], np.float32)
        made.append((input, target, weight) if weighted else (input, target))
    return made


def by_hand(data: list[tuple[Any, ...]], weighted: bool) -> tuple[Any, float]:
    """The parameters behind an epoch of SGD over the graphs that count, and the mean of their losses."""
    kept = slice(GRAPHS - weighted)

    def losses(params: Any, batch: Any) -> Any:
        output = of_graphs(params, None, batch[0], training=True, key=None)[0]
        return softmax_cross_entropy(output[kept], jnp.asarray(batch[1][kept]))

    params, seen = MODEL.params, []
    for batch in data:
        seen.append(losses(params, batch))
        gradient = jax.grad(lambda params, batch=batch: jnp.mean(losses(params, batch)))(params)
        params = jax.tree.map(lambda leaf, change: leaf - 0.1 * change, params, gradient)
    return params, float(np.mean(np.concatenate(seen)))


@pytest.mark.parametrize(
    ("steps_per_dispatch", "weighted"), [(1, True), pytest.param(3, False, marks=pytest.mark.slow)]
)
def test_one_loss_per_graph_is_trained_on_as_by_hand(steps_per_dispatch: int, weighted: bool) -> None:
    data, validation = batches(3, weighted=weighted), batches(2, weighted=weighted, seed=1)
    training_loop = small.training_loop(
        training=[data],
        validation=validation,
        optimizer=optax.sgd(0.1),
        metrics=["accuracy", jl.metrics.Mean(softmax_cross_entropy, "again")],
        steps_per_dispatch=steps_per_dispatch,
        check="all",
    )
    loop, history = training_loop.fit(MODEL, epochs=1)
    params, loss = by_hand(data, weighted)
    for found, expected in zip(jax.tree.leaves(loop.model.params), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert history.epochs["loss"][0] == pytest.approx(loss, rel=1e-5)
    evaluated = training_loop.evaluate(loop, validation)
    kept = slice(GRAPHS - weighted)
    logits = [np.asarray(loop.model(input))[kept] for input, *_ in validation]
    labels = [batch[1][kept] for batch in validation]
    right = np.concatenate(logits).argmax(axis=1) == np.concatenate(labels)
    assert evaluated["accuracy"] == pytest.approx(right.mean())
    assert evaluated["again"] == pytest.approx(evaluated["loss"], rel=1e-6)
    assert evaluated["loss"] == pytest.approx(history.epochs["validation_loss"][0], rel=1e-6)


@pytest.mark.parametrize("target", [True, False])
def test_what_is_seen_in_a_second_are_graphs_not_nodes(target: bool) -> None:
    seen = []

    @jl.on_host(jl.Event.BATCH_END)
    class Watch:
        def __call__(self, loop: Any, event: Any) -> None: ...

        def rows(self, columns: Any) -> None:
            seen.append(columns.batch_size)

    data = [(batch[0], batch[1] if target else None) for batch in batches(2, weighted=False)]
    loss_fn = softmax_cross_entropy if target else lambda output, target: jnp.sum(output**2, axis=1)
    training_loop = small.training_loop(
        training=[data], validation=data, loss_fn=loss_fn, metrics=[], callbacks=[Watch()], optimizer=optax.sgd(0.1)
    )
    training_loop.fit(MODEL, epochs=1)
    assert set(seen) == {GRAPHS}


def test_a_batch_of_fewer_graphs_cannot_be_filled_up_and_is_told() -> None:
    data = batches(2, weighted=False)
    data[1] = (data[1][0], data[1][1][:2])
    with pytest.raises(ValueError, match=r"batches: every batch must be like the first; target was int32\[3\]"):
        small.training_loop().evaluate(MODEL, data)
