"""A screen that never ends a fit: the first failure is a warning, and after it nothing more is drawn."""

from collections.abc import Callable
from contextlib import suppress

from jaxloop.console.lines import EpochRow, Moment
from jaxloop.console.screen import Screen
from jaxloop.telling import warn


class Guarded:
    """Draws on a screen as long as that works. The first failure is a warning, and training goes on without a screen.

    Attributes:
      live, seconds: as in the screen.
    """

    failure: Exception | None = None

    def __init__(self, screen: Screen):
        self.live, self.seconds = screen.live, screen.seconds
        self._screen: Screen | None = screen

    def show(self, moment: Moment) -> None:
        self._draw(lambda screen: screen.show(moment))

    def hide(self) -> None:
        self._draw(lambda screen: screen.hide())

    def wait_for(self, text: str | None) -> None:
        self._draw(lambda screen: screen.wait_for(text))

    def add(self, row: EpochRow) -> None:
        self._draw(lambda screen: screen.add(row))

    def write(self, text: str) -> None:
        self._draw(lambda screen: screen.write(text))

    def close(self) -> None:
        self._draw(lambda screen: screen.close())

    def _draw(self, draw: Callable[[Screen], None]) -> None:
        screen = self._screen
        if screen is None:
            return
        try:
            draw(screen)
            self.failure = screen.failure
        except Exception as error:
            self.failure = error
        if self.failure is None:
            return
        self._screen = None
        with suppress(Exception):
            screen.close()  # puts standard output back if the screen has replaced it
        failed = repr(self.failure)
        warn(f"ProgressBar: the console cannot be written, {failed}. Training goes on, and this fit shows no more.")
