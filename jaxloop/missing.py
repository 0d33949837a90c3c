"""Names that a loop does not have: a `KeyError` says only the key, and a note says what there is."""

import difflib
from collections.abc import Iterable

_LIKE = 0.4  # how like a statistic a name must be: `acc` is 0.55 like `accuracy`


def note_missing(error: BaseException, stats: Iterable[str], remembered: Iterable[str] | None = None) -> None:
    """Notes on a `KeyError` which statistics there are, and when callbacks make what they remember.

    Args:
      error: of a callback.
      stats: the names in `loop.stats`.
      remembered: the names in `loop.callback_state`, if the callback reads that.
    """
    if not isinstance(error, KeyError) or not error.args or not isinstance(error.args[0], str):
        return
    name, known = error.args[0], sorted(stats)
    if remembered is not None and name not in remembered:
        error.add_note(
            f"jaxloop: if {name!r} is a key of `loop.callback_state`: its entries are made at FIT_START. Give a model, "
            "or a loop from `fit` or `start` of a training loop that has this callback."
        )
    # A key of the user's own data is no statistic, so one that is like none of them says nothing.
    if name not in known and (name.startswith("validation_") or difflib.get_close_matches(name, known, 1, _LIKE)):
        without = name.startswith("validation_") and not any(each.startswith("validation_") for each in known)
        fix = " Give the training loop `validation`, or" if without else " Check `metrics`, or"
        error.add_note(
            f"jaxloop: if {name!r} is a key of `loop.stats`: there are {', '.join(known)}.{fix} read another."
        )
