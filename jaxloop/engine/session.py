"""A run in two values: `Session` is what is constant, `Progress` is what changes."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from jaxloop.asking import Ask
from jaxloop.callback import Callbacks
from jaxloop.engine.agreement import Agreement
from jaxloop.engine.ending import PhaseEnd
from jaxloop.engine.interrupts import Interrupts
from jaxloop.engine.latest import Latest
from jaxloop.engine.ledger import Ledger
from jaxloop.engine.place import Place
from jaxloop.events import Plan, Split
from jaxloop.feeding.contract import OnRecompile
from jaxloop.feeding.feed import Feeds
from jaxloop.feeding.source import EpochSource
from jaxloop.loop import Loop
from jaxloop.placement import Placement
from jaxloop.programs.fit_trace import TraceReport
from jaxloop.programs.memo import Memo
from jaxloop.programs.programs import Programs
from jaxloop.step_spec import StepSpec
from jaxloop.wire import WireLayout, kinds_of, layout_of


@dataclass(frozen=True)
class Session:
    """What is constant in a fit, an evaluation or a prediction. It was checked before the run begins.

    Attributes:
      spec: what the steps are made of, the compiled callbacks bound.
      callbacks: those on the host are not bound to the plan yet.
      plan: of the fit.
      placement: where it runs.
      source: the epochs.
      feeds: what makes batches of them.
      loop: the one it begins with, of the engine's own: before FIT_START and with scalars of NumPy; for predictions in
        validation, as device arrays.
      programs: kept by the training loop.
      memo: what was found out, kept by the training loop.
      steps_per_dispatch: at most how many steps one program takes, or `"auto"`.
      on_recompile: what happens if the loop's structure changes from one epoch to another.
      trace: what the abstract trace has shown.
      notices: what a person should know of it.
      identity: gives what makes it the same run if it is begun again, for JSON.
      validates_first: whether it validates before the first epoch.
      place: where it goes on, in a run that was saved; None for one that begins.
    """

    spec: StepSpec
    callbacks: Callbacks
    plan: Plan
    placement: Placement
    source: EpochSource
    feeds: Feeds
    loop: Loop
    programs: Programs
    memo: Memo
    steps_per_dispatch: int | Literal["auto"]
    on_recompile: OnRecompile
    trace: TraceReport = TraceReport({}, frozenset(), False)
    notices: tuple[str, ...] = ()
    identity: Callable[[], dict[str, Any]] = dict
    validates_first: bool = False
    place: Place | None = None

    def layout_of(self, loop: Loop) -> WireLayout:
        """The layout of the wire for `loop`; the same object for all loops of one kind."""
        return self.memo.get(("layout", *kinds_of(loop)), lambda: layout_of(loop))


@dataclass
class Progress:
    """What changes while a session runs. All parts of the engine write to it.

    Attributes:
      ledger: where its time goes.
      interrupts: asked at each boundary.
      latest: what is left of it if it fails.
      compile_seconds: of each program of steps that this run was the first to use, by name.
      layouts: of the wire, as each phase last had it.
      agreement: with the other processes of the run.
      ended: where each phase last ended.
      due: whether a checkpoint of this process is due by its clock, which others must be told of.
    """

    ledger: Ledger = field(default_factory=Ledger)
    interrupts: Interrupts = field(default_factory=Interrupts)
    latest: Latest = field(default_factory=Latest)
    compile_seconds: dict[str, float] = field(default_factory=dict)
    layouts: dict[Split, WireLayout] = field(default_factory=dict)
    agreement: Agreement = field(default_factory=Agreement)
    ended: dict[Split, PhaseEnd] = field(default_factory=dict)
    due: Callable[[], bool] = bool

    @property
    def asked(self) -> int:
        """What this process asks of the others besides cancelling: to stop for a signal, or to save."""
        asked = Ask.INTERRUPT * self.interrupts.interrupted | Ask.TERMINATE * self.interrupts.terminated
        return int(asked | Ask.SAVE * self.due())

    def hear(self) -> None:
        """Exchanges what each process asks for. Waits for all of them, if there are several."""
        if self.agreement.several:
            self.agreement.heard = self.agreement.all_of(self.agreement.heard | self.asked)

    def pending(self) -> bool:
        """Whether a signal waits, at any process as far as rows have told."""
        if not self.agreement.several:
            return self.interrupts.pending
        return bool(self.agreement.heard & (Ask.INTERRUPT | Ask.TERMINATE))
