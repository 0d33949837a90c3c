"""Resuming: the same run goes on, and any other run is refused by the name of what differs."""

import shutil
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxloop as jl
from jaxloop import Event
from jaxloop.checkpoint.store import Store
from jaxloop.engine import resuming
from jaxloop.errors import CheckpointError, CorruptCheckpointError, StateMismatchError
from jaxloop.placement import Placement
from jaxloop.programs.fusing import Fusing
from tests import small

BATCHES = 6


def remembering(loop, event):
    """It begins to remember only when an epoch is over, and another thing at the end of the fit."""
    if event is Event.EPOCH_END:
        loop = loop.remember("late", {"sum": jnp.zeros(()), "pair": (jnp.zeros(2), None)}, lasting=True)
        memory = dict(loop.callback_state["late"])
        memory["sum"] = memory["sum"] + loop.stats["loss"]
        return loop.replace(callback_state=loop.callback_state | {"late": memory})
    return loop.remember("end", jnp.float32(1.0)) if event is Event.FIT_END else loop


def options(**changes: Any) -> dict[str, Any]:
    training = {"samples": 4 * BATCHES, "batch_size": 4, "seed": 0} | changes.pop("training", {})
    return {
        "training": jl.TrainingEpochs(small.samples(training["samples"]), training["batch_size"], training["seed"]),
        "callbacks": [jl.callbacks.ema(0.9)],
    } | changes


def saved_run(directory: Path, every: Any = 1, epochs: int = 2, **changes: Any) -> tuple[jl.Loop, jl.History]:
    given = options(**changes)
    callbacks = [*given.pop("callbacks"), jl.callbacks.Checkpoint(directory, every=every, keep=99)]
    return small.training_loop(**given, callbacks=callbacks).fit(small.model(), epochs)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[Path, jl.Loop]:
    """A folder with a checkpoint at each boundary of two epochs, and the loop at their end."""
    directory = tmp_path_factory.mktemp("run")
    return directory, saved_run(directory)[0]


def only(directory: Path, ordinal: int, to: Path) -> Path:
    """A copy of the folder in which checkpoint `ordinal` is the newest."""
    shutil.copytree(directory, to)
    for saved in Store(to).checkpoints():
        if saved.ordinal > ordinal:
            shutil.rmtree(saved.path)
    return to


def middle(run: Any, to: Path) -> Path:
    directory, _ = run
    return only(directory, Store(directory).checkpoints()[2].ordinal, to)


def test_a_folder_without_a_checkpoint_begins_the_run_and_says_so(tmp_path, capsys) -> None:
    checkpoint = jl.callbacks.Checkpoint(tmp_path / "none")
    training_loop = small.training_loop(progress=True, callbacks=[checkpoint])
    loop, history = training_loop.fit(small.model(), 1, resume_from=tmp_path / "none")
    assert (int(loop.step), history.stopped) == (3, "completed")
    assert f"Nothing was saved in {tmp_path / 'none'} yet" in capsys.readouterr().out


def test_a_folder_that_this_fit_does_not_write_to_either_is_warned_of(tmp_path) -> None:
    with pytest.warns(RuntimeWarning, match=r"there is no checkpoint in .*misspelled.*This fit has no Checkpoint"):
        small.training_loop().fit(small.model(), 1, resume_from=tmp_path / "misspelled")


def test_a_file_is_no_folder_to_go_on_from(tmp_path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=r"`resume_from` is the folder of a Checkpoint, but .* is a file"):
        small.training_loop().fit(small.model(), 1, resume_from=tmp_path / "file")


def test_a_run_that_is_over_is_given_back_at_once(run, capsys) -> None:
    directory, expected = run

    @jl.on_host(*[event for event in Event if not event.in_step])
    def never(loop, event):
        raise AssertionError("nothing is trained")

    training_loop = small.training_loop(**options(), progress=True)
    loop, history = training_loop.fit(small.model(1), 2, callbacks=[never], resume_from=directory)
    small.assert_trees_equal(loop, expected)
    assert (history.stopped, history.epochs["epoch"].tolist(), len(history.batches["loss"])) == (
        "completed",
        [1, 2],
        12,
    )
    assert "Nothing is left to train" in capsys.readouterr().out


def test_a_cancelled_run_stays_cancelled_and_goes_on_only_when_asked(tmp_path) -> None:
    @jl.on_host(Event.EPOCH_END)
    def stop(loop, event):
        loop.cancel(jl.Scope.FIT)

    expected, _ = saved_run(tmp_path, epochs=5, callbacks=[stop])
    training_loop = small.training_loop(**options(callbacks=[stop]))
    loop, history = training_loop.fit(small.model(), 5, resume_from=tmp_path)
    assert (history.stopped, int(loop.step)) == ("cancelled", BATCHES)
    small.assert_trees_equal(loop, expected)
    training_loop = small.training_loop(**options(callbacks=[]))
    loop, history = training_loop.fit(jl.restore(tmp_path, training_loop, small.model()), 1)
    assert (history.stopped, int(loop.step)) == ("completed", 2 * BATCHES)


@pytest.mark.parametrize(
    ("changes", "epochs", "what"),
    [
        ({"training": {"seed": 1}}, 2, r"training: .*seed"),
        ({"training": {"batch_size": 3, "samples": 18}}, 2, r"batch_size"),
        ({"training": {"samples": 28}}, 2, r"samples"),
        ({"steps_per_dispatch": 2}, 2, r"steps_per_dispatch: the checkpoint's run had 1, this one has 2"),
        ({}, 3, r"epochs: the checkpoint's run had 2, this one has 3"),
        ({"metrics": []}, 2, r"metrics: "),
        ({"report": "epoch"}, 2, r"report: the checkpoint's run had 'batch', this one has 'epoch'"),
        ({"validation": None}, 2, r"validation"),
        ({"callbacks": []}, 2, r"callbacks: the checkpoint's run had \['ema'\], this one has \[\]"),
        ({"callbacks": [jl.callbacks.ema(0.9), jl.callbacks.clip_by_global_norm(1.0)]}, 2, r"callbacks: "),
        ({"optimizer": optax.adam(0.1)}, 2, r"opt_state"),
        ({"accumulate": 2}, 2, r"accumulate: the checkpoint's run had 1, this one has 2"),
        ({"compute_dtype": "bfloat16"}, 2, r"compute_dtype: the checkpoint's run had None, this one has 'bfloat16'"),
    ],
)
def test_another_run_is_refused_by_the_name_of_what_differs(run, tmp_path, changes, epochs, what) -> None:
    directory = middle(run, tmp_path / "run")
    with pytest.raises(StateMismatchError, match=what) as raised:
        small.training_loop(**options(**changes)).fit(small.model(), epochs, resume_from=directory)
    assert "Nothing was loaded" in str(raised.value)


def test_another_seed_of_the_run_and_another_limit_are_refused(run, tmp_path) -> None:
    directory = middle(run, tmp_path / "run")
    with pytest.raises(StateMismatchError, match="seed: the checkpoint's run had 0, this one has 1"):
        small.training_loop(**options()).fit(small.model(), 2, seed=1, resume_from=directory)
    with pytest.raises(StateMismatchError, match="limit_batches"):
        small.training_loop(**options()).fit(small.model(), 2, limit_batches=2, resume_from=directory)


def test_a_loop_that_has_been_trained_is_not_the_model_that_the_run_began_with(run, tmp_path) -> None:
    directory, loop = middle(run, tmp_path / "run"), run[1]
    with pytest.raises(StateMismatchError, match="first_step: the checkpoint's run had 0, this one has 12"):
        small.training_loop(**options()).fit(loop, 2, resume_from=directory)


def changed(leaf: str, value: Any) -> jl.Model:
    model = small.model()
    return jl.Model(small.apply, dict(model.params) | {leaf: value}, model.state)


@pytest.mark.parametrize(
    ("model", "what"),
    [
        (small.model(features=4, classes=5), r"kernel.*4, 3.*4, 5"),
        (changed("more", np.zeros(2, np.float32)), r"more"),
        (changed("bias", None), r"bias"),
    ],
    ids=["shape", "extra", "none"],
)
def test_another_model_is_refused_by_its_leaves(run, tmp_path, model, what) -> None:
    directory = middle(run, tmp_path / "run")

    def apply(params, state, input, *, training, key):
        output = input @ params["kernel"]
        return (output if params["bias"] is None else output + params["bias"]), {"passes": state["passes"] + training}

    model = jl.Model(apply, model.params, model.state)
    with pytest.raises(StateMismatchError, match=what):
        small.training_loop(**options()).fit(model, 2, resume_from=directory)


def test_damage_makes_the_checkpoint_before_it_the_newest_with_a_warning(run, tmp_path) -> None:
    directory = middle(run, tmp_path / "run")
    saved = Store(directory).checkpoints()
    (saved[-1].path / "manifest.json").write_bytes(b"{}")
    training_loop = small.training_loop(**options())
    with pytest.warns(RuntimeWarning, match=rf"checkpoint {saved[-1].ordinal} is not used"):
        loop, _ = training_loop.fit(small.model(), 2, resume_from=directory)
    small.assert_trees_equal(loop, run[1])


def test_only_damaged_checkpoints_are_an_error_and_never_a_fresh_start(run, tmp_path) -> None:
    directory = middle(run, tmp_path / "run")
    for saved in Store(directory).checkpoints():
        (saved.path / "manifest.json").unlink()
    with pytest.warns(RuntimeWarning), pytest.raises(CorruptCheckpointError, match=r"none of the 3 checkpoints"):
        small.training_loop(**options()).fit(small.model(), 2, resume_from=directory)


def test_a_folder_of_another_fit_is_refused_before_a_step(run, tmp_path) -> None:
    directory = middle(run, tmp_path / "run")
    checkpoint = jl.callbacks.Checkpoint(directory)
    with pytest.raises(CheckpointError, match="holds the checkpoints of a run"):
        small.training_loop(**options()).fit(small.model(), 2, callbacks=[checkpoint])


def test_two_fits_cannot_write_to_one_folder(tmp_path) -> None:
    checkpoint = jl.callbacks.Checkpoint(tmp_path / "run")

    @jl.on_host(Event.EPOCH_START)
    def other(loop, event):
        small.training_loop().fit(small.model(), 1, callbacks=[checkpoint])

    with pytest.raises(CheckpointError, match="another fit writes"):
        small.training_loop().fit(small.model(), 1, callbacks=[checkpoint, other])


def test_a_run_goes_on_into_the_folder_it_comes_from_and_into_another(run, tmp_path) -> None:
    for to in ("run", "elsewhere"):
        directory = middle(run, tmp_path / to / "run")
        target = directory if to == "run" else tmp_path / "new"
        checkpoint = jl.callbacks.Checkpoint(target, keep=2)
        training_loop = small.training_loop(**options())
        loop, history = training_loop.fit(small.model(), 2, callbacks=[checkpoint], resume_from=directory)
        small.assert_trees_equal(loop, run[1])
        again, whole = training_loop.fit(small.model(), 2, resume_from=target)  # its journals hold the whole history
        small.assert_trees_equal(again, run[1])
        assert whole.batches["loss"].tolist() == history.batches["loss"].tolist()
        assert len(whole.batches["loss"]) == 2 * BATCHES


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:fit. the .* step would compile again")
def test_what_callbacks_remember_late_is_put_back_in_every_epoch(tmp_path) -> None:
    expected, _ = saved_run(tmp_path / "run", epochs=3, callbacks=[remembering], on_recompile="warn")
    for saved in Store(tmp_path / "run").checkpoints():
        directory = only(tmp_path / "run", saved.ordinal, tmp_path / str(saved.ordinal))
        training_loop = small.training_loop(**options(callbacks=[remembering], on_recompile="warn"))
        loop, _ = training_loop.fit(small.model(), 3, resume_from=directory)
        small.assert_trees_equal(loop, expected)


def test_what_a_host_callback_has_put_into_the_loop_comes_back_too(tmp_path) -> None:
    @jl.on_host(Event.FIT_START, Event.EPOCH_END, reads="loop")
    def counts(loop, event):
        if event is Event.FIT_START:
            loop = loop.record("mark", jnp.int32(3))
            return loop.remember("mine", {"count": jnp.int32(0), "pair": [jnp.zeros(2), (None, loop.key)]})
        memory = dict(loop.callback_state["mine"])
        memory["count"] = memory["count"] + 1
        return loop.replace(callback_state=loop.callback_state | {"mine": memory})

    expected, _ = saved_run(tmp_path / "run", callbacks=[counts])
    assert int(expected.callback_state["mine"]["count"]) == 2
    for saved in Store(tmp_path / "run").checkpoints()[::3]:
        directory = only(tmp_path / "run", saved.ordinal, tmp_path / str(saved.ordinal))
        loop, _ = small.training_loop(**options(callbacks=[counts])).fit(small.model(), 2, resume_from=directory)
        small.assert_trees_equal(loop, expected)


@pytest.mark.parametrize("elsewhere", [True, False])
def test_steps_per_dispatch_stay_those_of_the_run(tmp_path, monkeypatch, elsewhere) -> None:
    """On another device the run goes on with those it had; on the same one, another decision means another run."""

    def decided(steps: int) -> None:
        monkeypatch.setattr(
            "jaxloop.engine.phase_steps.steps_per_dispatch", lambda **_: Fusing(steps, "as a test says")
        )

    decided(3)
    expected, _ = saved_run(tmp_path / "run", steps_per_dispatch="auto")
    first = Store(tmp_path / "run").checkpoints()[0]
    assert first.manifest()["about"]["place"]["position"] == 3
    directory = only(tmp_path / "run", first.ordinal, tmp_path / "one")
    decided(2)
    if elsewhere:
        monkeypatch.setattr(Placement, "describe", lambda self: "another device")
        training_loop = small.training_loop(**options(steps_per_dispatch="auto"))
        loop, _ = training_loop.fit(small.model(), 2, resume_from=directory)
        small.assert_trees_equal(loop, expected)
    else:
        with pytest.raises(
            StateMismatchError, match="took 3 steps in a dispatch of training, and this one would take 2"
        ):
            small.training_loop(**options(steps_per_dispatch="auto")).fit(small.model(), 2, resume_from=directory)


def test_a_run_in_microbatches_and_narrow_floats_goes_on_bit_for_bit(tmp_path) -> None:
    changes: dict[str, Any] = {"accumulate": 2, "compute_dtype": "bfloat16"}
    expected, _ = saved_run(tmp_path / "run", **changes)
    directory = middle((tmp_path / "run", expected), tmp_path / "middle")
    loop, _ = small.training_loop(**options(**changes)).fit(small.model(), 2, resume_from=directory)
    small.assert_trees_equal(loop, expected)


def test_a_run_that_was_saved_before_there_were_microbatches_had_none() -> None:
    saved = {"seed": 0}
    assert list(resuming._of_runs(saved, {"seed": 0, "accumulate": 1, "compute_dtype": None})) == []
    assert list(resuming._of_runs(saved, {"seed": 0, "accumulate": 4})) == [
        "accumulate: the checkpoint's run had 1, this one has 4"
    ]
