"""Runs whose numbers must not depend on where they are: for scripts in several processes, and for one device."""

import contextlib
import io
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxloop as jl
from jaxloop import Event, Scope
from tests import small


def training_loop(**changes: Any) -> jl.TrainingLoop:
    """Six training batches of 8, and 53 examples of validation in batches of 16."""
    arguments: dict[str, Any] = {
        "training": jl.TrainingEpochs(small.samples(48), batch_size=8),
        "validation": jl.in_batches(small.samples(53, seed=1), 16),
    }
    return small.training_loop(**(arguments | changes))


def fitted(on: Any, callbacks: Sequence[Any] = (), *, given: Any = None, epochs: int = 2, **changes: Any) -> Any:
    """What a fit has computed, all of it, as JSON."""
    options = {name: changes.pop(name) for name in ("resume_from", "limit_batches", "seed") if name in changes}
    start = small.model() if given is None else given
    return told(*training_loop(**changes).fit(start, epochs, callbacks=list(callbacks), on=on, **options))


def told(loop: jl.Loop, history: jl.History) -> dict[str, Any]:
    found: dict[str, Any] = {"stopped": history.stopped}
    for name, values in [*history.batches.items(), *history.epochs.items()]:
        if name not in ("seconds", "examples_per_second"):
            found[name] = np.asarray(values, float).tolist()
    return found | {jax.tree_util.keystr(path): whole(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(loop)}


def whole(leaf: Any) -> list[float]:
    """All numbers of an array, on every process."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.ravel(jl.data_parallel().fetch(leaf)).astype(float).tolist()


def parameters_by(path: str, leaf: Any) -> Any:
    """Each parameter along its first axis, if that divides by 2."""
    return jax.sharding.PartitionSpec("data") if leaf.ndim and leaf.shape[0] % 2 == 0 else jax.sharding.PartitionSpec()


def places() -> dict[str, Any]:
    """Where runs live; one device in one process."""
    if jax.process_count() == 1:
        return dict.fromkeys(("data", "sharded", "divided"), "cpu:0")
    line = jax.sharding.Mesh(np.array([jax.local_devices(process_index=each)[0] for each in (0, 1)]), ("data",))
    return {
        "data": jl.data_parallel(),
        "sharded": jl.fully_sharded(),
        "divided": jl.Placement(line, parameters_by, gather=True),  # arrays that no process has whole
    }


def plain(output: Any, target: Any) -> Any:
    return optax.softmax_cross_entropy_with_integer_labels(output, target)


def factory() -> jl.Model:
    return jl.Model(small.apply, {"kernel": jnp.ones((4, 3)), "bias": jnp.zeros(3)}, {"passes": jnp.int32(0)})


def few() -> dict[str, Any]:
    """Some runs of every kind."""
    on = places()
    return {
        "one by one": fitted(on["data"]),
        "four at once": fitted(on["sharded"], steps_per_dispatch=4),
        "divided": fitted(on["divided"], optimizer=optax.adamw(1e-2), steps_per_dispatch=3),
        "microbatches": fitted(on["data"], training=jl.TrainingEpochs(small.samples(48), 16), accumulate=2),
        "evaluated": training_loop().evaluate(small.model(), jl.in_batches(small.samples(53), 16), on=on["data"]),
        "predicted": training_loop().predict(small.model(), small.samples(53)[0], on=on["divided"]).tolist(),
    }


def more() -> dict[str, Any]:
    """Runs of all the other kinds."""
    on, found = places(), dict[str, Any]()
    for name, place in on.items():
        for steps in (1, 4, "auto"):
            found[f"{name} {steps}"] = fitted(place, steps_per_dispatch=steps)
        found[f"{name} evaluated"] = training_loop().evaluate(
            small.model(), jl.in_batches(small.samples(53), 16), on=place
        )
    place = on["data"]
    half = optax.inject_hyperparams(optax.sgd)(learning_rate=optax.constant_schedule(0.1))
    found["a schedule"] = fitted(place, optimizer=half)
    found["without validation"] = fitted(place, validation=None, limit_batches=3)
    found["by epochs"] = fitted(place, report="epoch", steps_per_dispatch=4)
    found["in bfloat16"] = fitted(place, compute_dtype=jnp.bfloat16)
    found["of a function"] = fitted(on["divided"], given=factory)
    found["patience"] = fitted(place, [jl.callbacks.early_stopping("validation_loss", patience=1)], epochs=9)
    found["seldom"] = fitted(place, [jl.callbacks.ema(0.9)], loss_fn=plain, steps_per_dispatch=2)
    first = training_loop().fit(small.model(), 1, on="cpu:0" if jax.process_count() == 1 else jax.local_devices()[0])[0]
    second, history = training_loop().fit(first, 1, on=place)
    found["from one device"] = told(second, history)
    found["fitted again"] = told(*training_loop().fit(second, 1, on=place))
    return found


def check_close(found: Any, expected: Any, where: str = "") -> None:
    """Equal to 1e-5, but for what is in bfloat16."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for name, value in expected.items():
            check_close(found[name], value, f"{where} {name}")
    elif isinstance(expected, str):
        assert found == expected, where
    else:
        loose = 2e-2 if "bfloat16" in where else 1e-5
        np.testing.assert_allclose(found, expected, rtol=0, atol=loose, err_msg=where)


def check_who_is_called(folder: Path) -> None:
    """Files and console are for the first process; who reads the loop, or asks for it, is called on each."""
    on, first = places()["data"], jax.process_index() == 0
    seen: list[str] = []

    def watching(name: str, **options: Any) -> Any:
        @jl.on_host(Event.EPOCH_END, **options)
        def watch(loop: Any, event: Event) -> None:
            seen.append(name)

        return watch

    mine = folder / str(jax.process_index())
    logs = [jl.callbacks.CSVLogger(mine / "log.csv"), jl.callbacks.TensorBoardLogger(mine / "events")]
    watches = [watching("stats"), watching("loop", reads="loop"), watching("every", every_process=True)]
    console, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(console), contextlib.redirect_stderr(errors):
        training_loop(progress=first).fit(small.model(), 2, callbacks=[*logs, *watches], on=on)
    assert seen == (["stats", "loop", "every"] if first else ["loop", "every"]) * 2
    assert mine.exists() == first
    assert bool(console.getvalue() + errors.getvalue()) == first
    if first:
        assert (mine / "log.csv").stat().st_size > 0
        assert list((mine / "events").rglob("events.out*"))


def check_one_all_reduce() -> None:
    """What processes ask each other travels with the gradient: each step has one all-reduce, of any kind."""
    made = training_loop(validation=None)
    setup = made.setup
    _, loop, steps = next(setup.run(setup.fit(small.model(), 1, on=places()["data"])).walk())
    wire = steps.layout.to_wire(loop)
    wire = steps.session.placement.put(wire[0]), wire[1]
    chunk = steps.feed.expected(1)
    program = steps.compiled(chunk, wire, chunk.abstract, lambda *told: None)
    text = program.compiled.as_text()
    assert text.count(" all-reduce(") + text.count(" all-reduce-start(") == 1, text
    for other in ("all-gather", "all-to-all", "collective-permute", "reduce-scatter"):
        assert f" {other}" not in text


def cancelling(event: Event, scope: Scope, *, step: int, **options: Any) -> Any:
    """Cancels on the last process alone."""

    @jl.on_host(event, every_process=True, **options)
    def cancel(loop: Any, event: Event) -> Any:
        if jax.process_index() + 1 < jax.process_count() or int(loop.step) < step:
            return None
        return loop.cancel(scope)

    return cancel


def cancelled(
    events: Sequence[Event],
    scopes: Sequence[Scope],
    dispatches: Sequence[int],
    readings: Sequence[Any] = ("stats", "loop"),
) -> dict[str, Any]:
    """Runs that the last process alone cancels."""
    found: dict[str, Any] = {}
    for event in events:
        for scope in scopes:
            for steps in dispatches:
                for reads in readings:
                    callback = cancelling(event, scope, step=3, reads=reads)
                    name = f"{event.name} {scope.name} {steps} {reads}"
                    found[name] = fitted(places()["data"], [callback], steps_per_dispatch=steps)
    return found


def check_stages_apart() -> None:
    """A run whose stages are apart, since a host callback watches them, is the fused run."""
    expected = fitted(places()["data"])
    for reads in ("step", "loop"):
        seen: list[Event] = []
        found = fitted(places()["data"], [small.witness(seen, reads=reads)])
        check_close(found, expected, reads)
        here = reads == "loop" or jax.process_index() == 0
        assert set(seen) == (set(Event) if here else set())


def signalled(number: int, processes: Sequence[int], step: int = 8) -> Any:
    """Sends these processes a signal, each to itself, after a step."""

    @jl.on_host(Event.BATCH_END, every_process=True)
    def send(loop: Any, event: Event) -> None:
        if loop.step == step and jax.process_index() in processes:
            os.kill(os.getpid(), number)

    return send


def saved(folder: Path, every: Any, callbacks: Sequence[Any] = (), **options: Any) -> Any:
    """A fit with a log and checkpoints."""
    logs = [jl.callbacks.CSVLogger(folder / "log.csv"), jl.callbacks.Checkpoint(folder / "saved", every=every, keep=3)]
    return fitted(places()["data"], [*logs, *callbacks], epochs=3, **options)


def check_preempted(folder: Path, every: Any, processes: Sequence[int], steps: int, **changes: Any) -> None:
    """SIGTERM at some processes saves and ends the run on all; it goes on as if nothing had been."""

    def make() -> dict[str, Any]:
        return {name: made() for name, made in changes.items()}

    expected = saved(folder / "whole", 10**6, steps_per_dispatch=steps, **make())
    callback = signalled(signal.SIGTERM, processes)
    first = saved(folder / "broken", every, [callback], steps_per_dispatch=steps, **make())
    assert first["stopped"] == "preempted"
    assert 8 <= first[".step"][0] < 18
    found = saved(folder / "broken", every, steps_per_dispatch=steps, resume_from=folder / "broken/saved", **make())
    assert found == expected
    assert (folder / "broken/log.csv").read_bytes() == (folder / "whole/log.csv").read_bytes()
