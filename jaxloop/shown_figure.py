"""A matplotlib figure that a notebook shows by itself, as the last value of a cell."""

import io

from matplotlib.figure import Figure


class ShownFigure(Figure):
    """A figure that pyplot does not know: no window opens, and pyplot does not keep it in memory.

    A notebook shows a figure of matplotlib only once pyplot was imported there. This one shows itself.
    """

    def _repr_png_(self) -> bytes:
        """The figure as a PNG, which IPython asks for."""
        picture = io.BytesIO()
        self.savefig(picture, format="png")
        return picture.getvalue()
