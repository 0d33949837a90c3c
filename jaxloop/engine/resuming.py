"""Resuming: a session that goes on where a checkpoint was taken, once it is certain that it is the same run."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from jaxloop.callbacks.checkpoint import checkpoints_among
from jaxloop.checkpoint.leaves import abstract, differences, rebuilt
from jaxloop.checkpoint.plain import filled
from jaxloop.checkpoint.store import Saved, Store
from jaxloop.engine.agreement import Agreement
from jaxloop.engine.place import Origin, Place
from jaxloop.engine.session import Session
from jaxloop.errors import CheckpointError, CorruptCheckpointError, StateMismatchError
from jaxloop.feeding.identity import differences as data_differences
from jaxloop.loop import Loop
from jaxloop.placement import Placement
from jaxloop.programs.fit_trace import Moment
from jaxloop.shardings import shardings_of
from jaxloop.telling import warn

#: What a run had of which its checkpoint does not tell, since it was saved before there was a choice.
_UNSAID = {"accumulate": 1, "validate_at_start": False}


def resumed(session: Session, directory: str | Path) -> Session:
    """The session that goes on from the newest checkpoint of a folder that is whole; as it is if there is none yet.

    Raises:
      CheckpointError: it is a file.
      CorruptCheckpointError: there are checkpoints, and all are damaged.
      StateMismatchError: the newest is that of another run. The message lists what differs.
    """
    agreement = Agreement(session.placement)
    with agreement.together():
        store = Store(directory)
        saved = store.checkpoints()
    agreement.same("fit", {"the checkpoints that it sees in `resume_from`": [each.ordinal for each in saved]})
    if store.directory.is_file():
        raise CheckpointError(f"fit: `resume_from` is the folder of a Checkpoint, but {str(directory)!r} is a file.")
    if not saved:
        _warn_of_another_folder(session, store.directory)
        return dataclasses.replace(session, notices=(*session.notices, f"Nothing was saved in {directory} yet"))
    failures: list[CorruptCheckpointError] = []
    for checkpoint in reversed(saved):
        try:
            with agreement.together():  # what one process cannot read, none goes on from
                loop, place = _loaded(session, checkpoint, session.identity())
        except CorruptCheckpointError as error:
            failures.append(error)
            warn(f"fit: {not_used(checkpoint, error)}")
            continue
        where = checkpoint.manifest()["about"]["where"]
        goes_on = "Takes" if place.finished else "Goes on from"
        notice = f"{goes_on} checkpoint {checkpoint.ordinal} in {directory}: {where}"
        return dataclasses.replace(session, loop=loop, place=place, notices=(*session.notices, notice))
    raise CorruptCheckpointError(
        f"fit: none of the {len(saved)} checkpoints in {str(directory)!r} is whole. Nothing was "
        f"trained or deleted. To begin again, give another directory. The newest: {said(failures[0])}"
    ) from failures[0]


def _warn_of_another_folder(session: Session, directory: Path) -> None:
    """Warns of a folder without checkpoints to which this fit writes none either: its name may be misspelled."""
    written = [checkpoint.directory for checkpoint in checkpoints_among(session.callbacks.host)]
    if directory.resolve() not in [path.resolve() for path in written]:
        saved = f"This fit saves to {', '.join(map(str, written))}" if written else "This fit has no Checkpoint"
        warn(f"fit: there is no checkpoint in {str(directory)!r}, so the run begins. {saved}.")


def not_used(checkpoint: Saved, error: CorruptCheckpointError) -> str:
    """Says that a damaged checkpoint is left out, and why."""
    return f"checkpoint {checkpoint.ordinal} is not used. {said(error)}"


def said(error: CorruptCheckpointError) -> str:
    """What is damaged, without the name of the room that found it."""
    text = str(error).removeprefix("checkpoint: ")
    return text[:1].upper() + text[1:] if text.startswith(("the ", "there ")) else text


def restored(session: Session, checkpoint: Saved) -> Loop:
    """The loop in a checkpoint, with scalars of NumPy; its run need not be this one, only its loop must fit.

    Its plan, where callbacks are bound to one, is that of the run: there it has its position.

    Raises:
      CorruptCheckpointError: it is damaged.
      StateMismatchError: the loop has other leaves than those that this session's would have.
    """
    loop, run = _loaded(session, checkpoint, None)[0], checkpoint.manifest()["about"]["run"]
    if loop.plan is None:
        return loop
    lengths = {"epoch_count": run["epochs"], "batch_count": run["steps_per_epoch"], "total_steps": run["total_steps"]}
    return loop.replace(plan=dataclasses.replace(loop.plan, **lengths))


def chosen(store: Store, step: int | str | None) -> list[Saved]:
    """The checkpoints that `restore` may use, the first choice first.

    Args:
      store: of the folder.
      step: None for the newest, and those before it if it is damaged; a number of training steps; or `"best"`.

    Raises:
      CheckpointError: there is none; as CorruptCheckpointError, if a damaged one may be the one.
    """
    saved = store.checkpoints()[::-1]
    if not saved:
        raise CheckpointError(f"restore: there is no checkpoint in {str(store.directory)!r}. Check the path.")
    if step is None:
        return saved
    best = store.best_ordinal() if step == "best" else None
    steps: set[int] = set()
    failures: list[CorruptCheckpointError] = []
    for checkpoint in saved:
        try:
            steps.add(found := checkpoint.manifest()["about"]["step"])
        except CorruptCheckpointError as error:
            failures.append(error)
            continue
        if checkpoint.ordinal == best or found == step:
            for error in failures:
                warn(f"restore: whether it is a checkpoint of step {step!r} is not known: {error}")
            return [checkpoint]
    what = "none is marked as the best" if step == "best" else f"there are those of steps {sorted(steps)}"
    message = f"restore: {str(store.directory)!r} holds no checkpoint of step {step!r}; {what}."
    if failures:
        raise CorruptCheckpointError(f"{message} A damaged one may be it: {failures[0]}") from failures[0]
    raise CheckpointError(message)


def _loaded(session: Session, checkpoint: Saved, identity: Mapping[str, Any] | None) -> tuple[Loop, Place]:
    manifest = checkpoint.manifest()
    about, leaves = manifest["about"], manifest["leaves"]
    different = [] if identity is None else list(_of_runs(about["run"], identity))
    elsewhere = about["placement"] != session.placement.describe()
    place = Place.of(about["place"], elsewhere=elsewhere)
    place = dataclasses.replace(place, marks=_marks_here(place.marks))
    template = _template(session, place.moment, leaves, about["static"]["memory"])
    different += differences(leaves, template)
    if different:
        shown = "\n  ".join(different)
        raise StateMismatchError(
            f"checkpoint {checkpoint.ordinal} in {str(checkpoint.path.parent)!r} belongs to another run. Nothing was "
            f"loaded. What differs:\n  {shown}\nRun what made it, or give another directory. "
            "`jaxloop.restore` gives its loop without its run, and `fit` trains that further."
        )
    shardings = jax.tree_util.tree_leaves_with_path(shardings_of(session.placement, template))
    by_path = {jax.tree_util.keystr(path): sharding for path, sharding in shardings}
    arrays = _read(session.placement, checkpoint, [by_path[leaf["path"]] for leaf in leaves if "array" in leaf])
    loop: Loop = rebuilt(leaves, arrays, template)
    static = about["static"]
    loop = loop.replace(lasting=frozenset(static["lasting"]), evaluated=frozenset(static["evaluated"]))
    if identity is None:
        return loop, place
    journals = {name: (size, crc) for name, (size, crc) in manifest["journals"].items()}
    origin = Origin(checkpoint.path.parent.resolve(), checkpoint.ordinal, journals)
    return loop, dataclasses.replace(place, origin=origin, journals=checkpoint.journals())


def _marks_here(marks: Mapping[str, Any]) -> Mapping[str, Any]:
    """The marks of this process, if each process has read a loader of its own."""
    everywhere: Sequence[Any] | None = marks.get("processes")
    if everywhere is None:
        return marks
    if len(everywhere) != jax.process_count():
        raise StateMismatchError(
            f"fit: the run had {len(everywhere)} processes, each with a loader of its own, and this one has "
            f"{jax.process_count()}. What each has read cannot be divided in another way. Run as many, "
            "or give TrainingEpochs."
        )
    return everywhere[jax.process_index()]


def _read(placement: Placement, checkpoint: Saved, shardings: Sequence[Any]) -> list[jax.Array]:
    """The arrays where they are to lie. Each of several processes reads all, and keeps what is its own."""
    if not placement.several_processes:
        return checkpoint.arrays(shardings)
    host = jax.sharding.SingleDeviceSharding(jax.local_devices(backend="cpu")[0])
    return placement.copies(checkpoint.arrays([host] * len(shardings)), list(shardings))


def _template(session: Session, moment: Moment, leaves: Sequence[Mapping[str, Any]], memory: Mapping[str, Any]) -> Loop:
    """The loop at a moment of the run, as shapes and dtypes.

    What callbacks remember may begin later than at FIT_START. So a name that the trace has not seen at this moment has
    the form of a later moment. A name that it has never seen comes of a host callback, and has the form that it had.
    """
    moments = session.trace.moments
    loop = moments.get(moment, moments[None])
    later = {name: value for each in moments.values() for name, value in each.callback_state.items()}
    held = {field: _by_name(leaves, field) for field in ("callback_state", "stats")}
    late = {name: later[name] for name in held["callback_state"].keys() & later.keys() - loop.callback_state.keys()}
    for name, structure in memory.items():
        if structure is None:
            raise StateMismatchError(
                f"fit: loop.callback_state[{name!r}] was made by a host callback, and holds containers that only code "
                "can make. Remember dicts, lists and tuples there, or let a compiled callback remember it at FIT_START."
            )
        late[name] = filled(structure, map(abstract, held["callback_state"].get(name, [])))
    stats = {name: abstract(leaf) for name, (leaf,) in held["stats"].items()} | session.loop.stats
    return loop.replace(stats=stats, callback_state=loop.callback_state | late)


def _by_name(leaves: Sequence[Mapping[str, Any]], field: str) -> dict[str, list[Mapping[str, Any]]]:
    """The leaves in a field of the loop that is a dict, by its names."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for leaf in leaves:
        if leaf["entries"][0][1] == field:
            found.setdefault(leaf["entries"][1][1], []).append(leaf)
    return found


def _of_runs(saved: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """What differs between the run of a checkpoint and this one, a line for each."""
    for name, value in now.items():
        before = saved.get(name, _UNSAID.get(name))
        if name in ("training", "validation") and before is not None and value is not None:
            yield from (f"{name}: {line}" for line in data_differences(before, value))
        elif before != value:
            yield f"{name}: the checkpoint's run had {before!r}, this one has {value!r}"
