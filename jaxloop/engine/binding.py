"""Metrics that are bound to the shapes of output and target, which the trace of a run shows."""

from collections.abc import Hashable
from dataclasses import replace
from typing import Any

from jaxloop.loop import Loop
from jaxloop.measured import unmeasured
from jaxloop.metrics import Metric
from jaxloop.programs.memo import Memo
from jaxloop.step_spec import StepSpec
from jaxloop.wire import kinds_of


def bound_spec(memo: Memo, spec: StepSpec, metrics: tuple[Metric, ...]) -> StepSpec:
    """The spec with these metrics; the same object for equal metrics, so that programs are shared."""
    known: list[StepSpec] = memo.get(("bound", spec), list)
    for other in known:
        if other.metrics == metrics:
            return other
    known.append(replace(spec, metrics=metrics, unbound=spec))
    return known[-1]


def with_metrics_of(spec: StepSpec, loop: Loop) -> Loop:
    """The loop with the empty accumulators of a spec, and with statistics of the dtypes that its metrics give."""
    dtypes = {split.stat(name): dtype for split in spec.splits for name, dtype in spec.stat_dtypes.items()}
    changed = {name for name, value in loop.stats.items() if dtypes.get(name, value.dtype) != value.dtype}
    stats = loop.stats | {name: unmeasured(dtypes[name]) for name in sorted(changed)}
    return loop.replace(metrics=spec.empty_metrics, stats=stats)


def bindings_of(memo: Memo, spec: StepSpec) -> dict[Hashable, StepSpec]:
    """The bound specs of a spec, by what a trace over such batches is kept by. It may be written to."""
    return memo.get(("bindings", spec), dict)


def note_binding(memo: Memo, spec: StepSpec) -> None:
    """Notes what the metrics of a run are bound to, for steps by hand of loops that it leaves."""
    latest: dict[Any, tuple[Metric, ...]] = memo.get("metrics of loops", dict)
    latest[None] = latest[kinds_of(spec.empty_metrics)] = spec.metrics


def spec_of_loop(memo: Memo, spec: StepSpec, loop: Loop) -> StepSpec:
    """The spec, bound as the metrics are whose accumulators the loop has; else as those of the latest run.

    If there was no run, it is as it was, and its step will say so.
    """
    if not any(map(spec.is_unbound, spec.metrics)):
        return spec
    known: dict[Any, tuple[Metric, ...]] = memo.get("metrics of loops", dict)
    metrics = known.get(kinds_of(loop.metrics), known.get(None))
    return spec if metrics is None else bound_spec(memo, spec, metrics)
