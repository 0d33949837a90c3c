"""For those who write callbacks: `check_callback` proves that one goes on after a kill as if there had been none."""

from jaxloop.testing.checking import check_callback as check_callback

__all__ = [
    "check_callback",
]


def __dir__() -> list[str]:
    return sorted(__all__)
