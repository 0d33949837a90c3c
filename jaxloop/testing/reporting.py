"""The message of a check that has failed: where, what differs, and what to do."""

from collections.abc import Sequence

from jaxloop.testing.differing import Difference

STATE = (
    "A host callback with a memory needs two methods. `state()` gives all of it as JSON (numbers, text, None, lists, "
    "dicts with text as keys). `resume(loop, state)` takes it back; it is called in place of FIT_START."
)
REMEMBER = (
    "A compiled callback keeps what changes in the loop: `loop.remember(name, value)` at FIT_START, and then "
    "`loop.replace(callback_state=loop.callback_state | {name: value})`. What it has closed over is a constant."
)
SAVING = (
    "`state()` is called at every save. It may write out what waits, but must change nothing that is seen later: not "
    "what a file holds in the end, and not what the callback does."
)
_CUT = (
    "`resume` must cut each file to what it was when `state` was called (keep its size there): a kill comes some time "
    "after a save, and what was written between comes again."
)
_DURABLE = "What came before the save must be in the file when `state()` returns (flush, then os.fsync)."
OUTSIDE = (
    "Keep what changes in the callback's own attributes, not in a module, a class or a variable around it; draw random "
    "numbers from a generator of your own with a fixed seed."
)
DISPATCHES = (
    "A host callback that cancels at BATCH_END is heard one dispatch late. If that is meant, check each number by "
    "itself: check_callback(..., steps_per_dispatch=[1])."
)
IGNORE = "What may differ can be named: check_callback(..., ignore=['*.png', 'count'])."


def failed(what: str, lines: Sequence[str], advice: Sequence[str]) -> AssertionError:
    """The error: what is wrong, a line for each place where it shows, and a line for each thing to do."""
    shown = "".join(f"\n  {line}" for text in lines for line in text.splitlines())
    said = "".join(f"\n- {line}" for line in advice)
    return AssertionError(f"check_callback: {what}{':' if lines else '.'}{shown}\nWhat to do:{said}")


def advice_on(found: Sequence[Difference], *, on_host: bool, compiled: bool) -> list[str]:
    """What to do about differences, for a check of host callbacks, of compiled ones, or of both."""
    files = [difference for difference in found if difference.kind == "file"]
    said = []
    if on_host:
        said.append(STATE)
    if any(difference.more for difference in files):
        said.append(_CUT)
    if any(not difference.more for difference in files):
        said.append(_DURABLE)
    if compiled:
        said.append(REMEMBER)
    return [*said, IGNORE]
