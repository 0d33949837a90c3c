"""Pictures of a model's inputs and outputs, one file for each epoch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxloop.callback import on_host
from jaxloop.events import Event, Plan
from jaxloop.files.png import check_image_shape, encoded, pixels, require_pillow
from jaxloop.path_argument import path_argument
from jaxloop.telling import warn
from jaxloop.views import LoopView
from jaxloop.whole_number import whole_number

_EVENTS = (Event.FIT_START, Event.INFERENCE_PREDICTION_END)


@on_host(*_EVENTS, reads="step")
class ImageSaver:
    """Saves the inputs of the first validation batch above the outputs, for models such as autoencoders.

    Its files are `epoch_0001.png` and so on, numbered by the epoch over the loop's life: a row of inputs above a row of
    outputs. Each of several sets of validation has files of its own, such as `epoch_0001_in_domain.png`. The first
    batch is the same in each epoch, so that the files can be compared. An older file of the same name is replaced.

    It reads a step of validation, so validation takes one batch per dispatch. Training is not affected. It needs
    Pillow: `pip install 'jaxloop[images]'`. If a file cannot be written, one warning says so, and training goes on.

    Args:
      directory: the folder of the files. It is made if it is missing.
      image_shape: the shape of one image if examples are flat: (height, width), (height, width, 1) or
        (height, width, 3). The default is the shape of an input. Floats are clipped to the range from 0, black, to 1;
        uint8 is taken as it is.
      count: how many examples are shown at most: the first ones of the batch, without its padding.
      every_n_epochs: an epoch is shown if its number is a multiple of this.

    Raises:
      ValueError: an argument is outside of its bounds. In the first validation: an input or output is not an image.
      ModuleNotFoundError: at the start of a fit, Pillow is not installed.
      OSError: at the start of a fit, the directory cannot be made.

    Example:
      >>> callbacks = [jl.callbacks.ImageSaver(image_shape=(28, 28), every_n_epochs=5)]
      >>> training_loop = jl.TrainingLoop(epochs, optimizer=optimizer, loss_fn=loss_fn, callbacks=callbacks)
    """

    # So that setting a misspelled attribute is an error.
    __slots__ = ("__weakref__", "count", "directory", "every_n_epochs", "image_shape")

    def __init__(
        self,
        directory: str | Path = "run/images",
        image_shape: Sequence[int] | None = None,
        *,
        count: int = 10,
        every_n_epochs: int = 1,
    ):
        for name, value in (("count", count), ("every_n_epochs", every_n_epochs)):
            whole_number(f"ImageSaver: `{name}`", value)
        self.directory = path_argument("ImageSaver: `directory`", directory, "run/images")
        self.image_shape = None if image_shape is None else tuple(image_shape)
        self.count = count
        self.every_n_epochs = every_n_epochs
        if self.image_shape is not None:
            check_image_shape("ImageSaver: `image_shape`", self.image_shape)

    def bind(self, plan: Plan) -> "_Saver":
        require_pillow("ImageSaver")  # at the start of the fit, not at the first picture
        return _Saver(self)

    def __repr__(self) -> str:
        return f"ImageSaver({str(self.directory)!r})"


@on_host(*_EVENTS, reads="step")
class _Saver:
    """The files of one fit."""

    __name__ = "ImageSaver"  # what a user has written

    def __init__(self, options: ImageSaver):
        self._options = options
        self._failed = False

    def __call__(self, loop: LoopView, event: Event) -> None:
        options = self._options
        if event is Event.FIT_START:
            self._make_directory()
            return
        epoch = int(loop.epoch)
        if int(loop.batch_index) != 0 or epoch % options.every_n_epochs or self._failed:
            return
        shown = _real(loop)[: options.count]
        if not len(shown):
            return
        picture = encoded(np.concatenate([self._row(field, loop, shown) for field in ("input", "output")]))
        of_set = "" if loop.validation_set is None else f"_{loop.validation_set}"
        path = options.directory / f"epoch_{epoch:04d}{of_set}.png"
        try:
            path.write_bytes(picture)
        except OSError as error:
            self._failed = True
            warn(
                f"ImageSaver: {str(path)!r} cannot be written, {error}. Training goes on, and this fit saves no more.",
            )

    def state(self) -> dict[str, Any]:
        """Nothing: each file depends only on its epoch."""
        return {}

    def resume(self, loop: LoopView, state: Mapping[str, Any]) -> None:
        """Makes the directory, which may be gone."""
        self._make_directory()

    def _make_directory(self) -> None:
        directory = self._options.directory
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise type(error)(
                f"ImageSaver: the folder {str(directory)!r} cannot be made, {error}. Give another `directory`."
            ) from error

    def _row(self, field: str, loop: LoopView, shown: np.ndarray) -> np.ndarray:
        """The images in one field of the loop, from left to right."""
        array = getattr(loop, field)
        if not hasattr(array, "shape"):
            raise TypeError(
                f"ImageSaver: the model's {field} must be one array of images, got {type(array).__name__}. "
                "Write a callback of your own, by @jaxloop.on_host(Event.INFERENCE_PREDICTION_END, reads='step')."
            )
        examples = np.asarray(array)[shown]
        shape = self._options.image_shape or loop.input.shape[1:]
        if examples[0].size != np.prod(shape):
            raise ValueError(
                f"ImageSaver: an example of the model's {field} has shape {list(examples.shape[1:])}, which does not "
                f"make an image of shape {list(shape)}. Give `image_shape`, or a model whose output is like its input."
            )
        who = f"ImageSaver: {field}"
        return np.concatenate([pixels(who, example.reshape(shape)) for example in examples], axis=1)


def _real(loop: LoopView) -> np.ndarray:
    """int[examples]: the indices in the batch of the real examples; the others pad it, and have weight 0."""
    if loop.weight is None:
        return np.arange(jax.tree.leaves(loop.input)[0].shape[0])
    weight = np.asarray(loop.weight)
    return np.flatnonzero((weight.reshape(len(weight), -1) != 0).any(axis=1))
