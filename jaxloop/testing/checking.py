"""`check_callback`: whether a callback goes on after a kill as if it had never been interrupted."""

import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxloop.callback import name_of
from jaxloop.testing.differing import Difference, differences, matches, unequal_attributes
from jaxloop.testing.fresh import FreshProcess, Resume, Resumed, resume_all, told
from jaxloop.testing.keeping import kept, short
from jaxloop.testing.making import Maker, known_as, maker_of
from jaxloop.testing.outcome import Outcome
from jaxloop.testing.reporting import DISPATCHES, IGNORE, OUTSIDE, REMEMBER, SAVING, STATE, advice_on, failed
from jaxloop.testing.running import Place, Runs
from jaxloop.testing.tracing import ImpureError, check_purity
from jaxloop.testing.training import Training, small_model, small_training_loop
from jaxloop.training_loop import TrainingLoop


def check_callback(
    callback: Any,
    *,
    training_loop: Callable[[], TrainingLoop] = small_training_loop,
    model: Callable[[], Any] = small_model,
    epochs: int = 2,
    steps_per_dispatch: Sequence[int] = (1, 3),
    every: int = 1,
    ignore: Sequence[str] = (),
) -> None:
    """Fails unless a callback goes on after a kill, anywhere, as if the run had never been interrupted.

    It trains a small model for two epochs without an interruption. Then it trains it again, and saves the run at every
    boundary: in training, in validation and between epochs. From each of these checkpoints it goes on to the end, with
    a callback that was made again. At one place the run is interrupted a second time. All must give the same, bit for
    bit: each leaf of the loop, each row of each phase and of the history, what host callbacks are told, and each file
    that the callback writes. Attributes of a host callback count too; of one with a memory only those without a
    leading underscore. Not compared are the columns `seconds` and `examples_per_second`, the times of TensorBoard's
    points, and attributes that differ between two runs anyway, as clocks do.

    Files are once as they were at the save, and once as they were at the end of the run: a kill comes some time after
    a save. So at least two places are tried (see `every`).

    It also fails if saving changes anything, if several steps a dispatch give something else than one, or if a compiled
    callback is no pure function: if it gives two programs where it is traced twice, or changes a variable that it has
    closed over.

    The runs go on in a fresh process, one for each number of steps, if that can import what is given: functions and
    classes at the top level of a module. A lambda, a closure, or what stands in a notebook it cannot import. Then they
    go on in this process, with what the function makes when it is called again. That cannot see what a callback keeps
    outside of itself, in a module or a class, unless two runs after one another differ by it. All runs are on the CPU.

    Args:
      callback: a function that is given a folder and makes the callback, or a list of those that belong together; a
        class is such a function too. Whatever is written must be in the folder. A callback that writes no files may
        also be given itself. Before each run it is copied, but a compiled one is used as it is.
      training_loop: makes the training loop, without the callback; its data must allow that a run is resumed. It is
        called for each run.
      model: makes the model.
      epochs: of each run, at least 1.
      steps_per_dispatch: the numbers that are tried. A host callback that cancels at BATCH_END is heard one dispatch
        late, so with one number it does otherwise than with another: give one.
      every: 1 to go on from each checkpoint, n to go on from every n-th only, to save time.
      ignore: patterns of what may differ, as for file names: of files, by their path in the folder; of columns; of
        leaves, such as `.model.state*`; of attributes, and of variables that a function has closed over.

    Raises:
      AssertionError: it does not. The message says where the run was killed, which row, leaf, file, call or attribute
        differs, and what to do.
      TypeError, ValueError: an argument is wrong.
      Whatever the callback raises in a run without an interruption, with a note.

    Example:
      >>> from jaxloop.testing import check_callback
      >>> def test_the_logger_goes_on():
      ...     check_callback(lambda folder: MyLogger(folder / "log.txt"))
    """
    if epochs < 1 or every < 1 or not steps_per_dispatch or min(steps_per_dispatch) < 1:
        raise ValueError(
            "check_callback: `epochs`, `every` and each of `steps_per_dispatch` must be at least 1, got "
            f"{epochs}, {every} and {[*steps_per_dispatch]}."
        )
    training = Training(training_loop, model, epochs, reusable=training_loop is small_training_loop)
    with tempfile.TemporaryDirectory(prefix="jaxloop-check-") as folder, ExitStack() as stack:
        check = _Check(callback, maker_of(callback), training, every, tuple(ignore), Path(folder).resolve())
        check.run(steps_per_dispatch, stack)


@dataclass
class _Check:
    """One check; `run` does it.

    Attributes:
      given: the callback, or what makes it.
      maker: of it.
      training: what is trained.
      every, ignore: as `check_callback` was given them.
      folder: for all that is written.
      first: what the first run gave.
      unsteady: the attributes that differ between two equal runs.
    """

    given: Any
    maker: Maker
    training: Training
    every: int
    ignore: tuple[str, ...]
    folder: Path
    first: Outcome | None = None
    unsteady: frozenset[str] = frozenset()

    def run(self, steps_per_dispatch: Sequence[int], stack: ExitStack) -> None:
        """All of it, once for each number of steps. Processes go on meanwhile, and are ended with the stack."""
        waiting: list[tuple[int, Outcome, Callable[[], list[Resumed]], int]] = []
        for steps in steps_per_dispatch:
            folder = self.folder / _per_dispatch(steps)
            runs = Runs(self.maker, self.training, steps, folder)
            whole = self._whole(runs, steps)
            places = self._saved(runs, steps, whole)
            resumes = self._resumes(places)
            waiting.append((steps, whole, self._begun(runs, steps, folder, resumes, stack), len(resumes)))
        for steps, whole, results, count in waiting:
            self._judge(steps, whole, results(), count)

    def _whole(self, runs: Runs, steps: int) -> Outcome:
        """What the uninterrupted run gives, once it is certain that it always gives that."""
        if self.first is not None:
            whole = self._uninterrupted(runs)
            what = f"with {_per_dispatch(steps)} it gives something else than before"
            self._expect(what, self.first, whole, [DISPATCHES, IGNORE], unsteady=None)
            return whole
        self._check_compiled()
        before = self._shared()
        self.first = whole = self._uninterrupted(runs)
        changed = [
            f"{name} of {of}: {short(repr(old))}, and then {short(repr(new))}"
            for of, olds, news in zip(self._names(), before, self._shared(), strict=True)
            for name, old, new in ((name, olds.get(name), news.get(name)) for name in olds)
            if old != new and not matches(name, self.ignore)
        ]
        if changed:
            what = f"{self.maker.name} keeps what changes in variables, which a new process begins again with"
            raise failed(what, changed, [STATE, IGNORE])
        again = self._uninterrupted(runs)
        self.unsteady = unequal_attributes(whole, again)
        what = "two uninterrupted runs, one after the other, differ"
        self._expect(what, whole, again, [OUTSIDE, IGNORE], unsteady=None)
        return whole

    def _saved(self, runs: Runs, steps: int, whole: Outcome) -> list[Place]:
        """The places at which the run was saved, once it is certain that this has changed nothing."""
        try:
            saved, places = runs.saved()
        except Exception as error:
            raise failed(f"{self.maker.name} fails in a run that is saved", [told(error)], [STATE]) from error
        what = f"saving the run changes it, with {_per_dispatch(steps)}"
        self._expect(what, whole, saved, [SAVING, IGNORE], unsteady=self.unsteady)
        return places

    def _resumes(self, places: Sequence[Place]) -> list[Resume]:
        resumes = [Resume(place, grown=index % 2 == 1) for index, place in enumerate(places[:: self.every])]
        return [*resumes, Resume(places[len(places) // 3], twice=True)]

    def _begun(
        self, runs: Runs, steps: int, folder: Path, resumes: list[Resume], stack: ExitStack
    ) -> Callable[[], list[Resumed]]:
        """Begins to go on from the places; what it gives waits for the results."""
        makers = (self.given, self.training.training_loop, self.training.model)
        if all(known_as(each) is not None for each in makers):
            process = FreshProcess(self.given, self.training, steps, folder, resumes)
            stack.callback(process.end)
            return process.results
        results = resume_all(runs, resumes)
        return lambda: results

    def _judge(self, steps: int, whole: Outcome, results: list[Resumed], count: int) -> None:
        assert len(results) == count
        bad = [
            (resumed, found) for resumed in results if (found := self._found(whole, resumed)) or resumed.outcome is None
        ]
        if not bad:
            return
        resumed, found = bad[0]
        lines = [difference.text for difference in found] or [resumed.error]
        others = "; ".join(resumed.where for resumed, _ in bad[1:4])
        if others:
            lines.append(f"So it is at {len(bad)} of {count} places; the next are: {others}")
        on_host, compiled = self._kinds()
        what = f"{self.maker.name} does not go on as if it had not been killed. At {_per_dispatch(steps)}, "
        raise failed(what + resumed.where, lines, advice_on(found, on_host=on_host, compiled=compiled))

    def _found(self, whole: Outcome, resumed: Resumed) -> list[Difference]:
        if resumed.outcome is None:
            return []
        return differences(whole, resumed.outcome, ignore=self.ignore, unsteady=self.unsteady)

    def _expect(
        self, what: str, whole: Outcome, found: Outcome, advice: list[str], *, unsteady: frozenset[str] | None
    ) -> None:
        """Raises if two runs that should be equal are not."""
        if different := differences(whole, found, ignore=self.ignore, unsteady=unsteady):
            raise failed(f"{self.maker.name}: {what}", [each.text for each in different], advice)

    def _uninterrupted(self, runs: Runs) -> Outcome:
        try:
            return runs.whole()
        except Exception as error:
            error.add_note("jaxloop: check_callback: while it ran without an interruption")
            raise

    def _check_compiled(self) -> None:
        compiled = [made for made in self._made() if not hasattr(made, "host_declaration")]
        if not compiled:
            return
        try:
            changes = check_purity(compiled, self.training)
        except ImpureError as error:
            raise failed(f"compiled callback {error}", [], [REMEMBER]) from error
        lines = [f"{name} of {of}: {values}" for of, name, values in changes if not matches(name, self.ignore)]
        if lines:
            raise failed("a compiled callback changes variables while it is traced", lines, [REMEMBER, IGNORE])

    def _made(self) -> list[Any]:
        folder = self.folder / "unused"
        folder.mkdir(exist_ok=True)
        return self.maker.make(folder)

    def _names(self) -> list[str]:
        return [name_of(made) for made in self._made()] if self.maker.shares_functions else []

    def _shared(self) -> list[dict[str, Any]]:
        """What new copies of given objects keep: it is other than at first if they share something with each other."""
        return [kept(made) for made in self._made()] if self.maker.shares_functions else []

    def _kinds(self) -> tuple[bool, bool]:
        """Whether a host callback is among them, and whether a compiled one is."""
        made = self._made()
        on_host = [hasattr(each, "host_declaration") for each in made]
        return any(on_host) or any(hasattr(each, "companion") for each in made), not all(on_host)


def _per_dispatch(steps: int) -> str:
    return "1 step a dispatch" if steps == 1 else f"{steps} steps a dispatch"
