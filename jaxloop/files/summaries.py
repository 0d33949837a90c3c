"""TensorBoard's contents as tensorboardX summaries: scalars, histograms, images, hyperparameters."""

import numbers
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np

from jaxloop.files.png import encoded, pixels

_BINS = 64
_STATUS_FAILURE = 2  # in tensorboardX's api.proto


def scalars(values: Mapping[str, Any]) -> Any:
    """A `Summary` with a scalar under each tag."""
    from tensorboardX import summary  # here and below, so that `import jaxloop` does not import it

    found = summary.Summary()
    for tag, value in values.items():
        found.value.add(tag=tag, simple_value=float(value))
    return found


def histograms(prefix: str, tree: Any) -> Any:
    """A histogram of each array in a tree, under its path: `weights/dense/kernel`. It waits for the device.

    Values that are not finite are left out. An array without any finite value is left out too.

    Args:
      prefix: the beginning of the tags.
      tree: PyTree of arrays.

    Returns:
      A `Summary`.
    """
    from tensorboardX import summary

    found = summary.Summary()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        with np.errstate(over="ignore"):
            # First to float32, then to float64: a range of float64 could be too narrow to be divided into bins.
            values = np.asarray(leaf).astype(np.float32)
        values = values[np.isfinite(values)].astype(np.float64)
        if values.size:
            found.value.add(tag=f"{prefix}/{name}", histo=summary.make_histogram(values, _BINS))
    return found


def images(pictures: Mapping[str, Any]) -> Any:
    """An image under each tag.

    Args:
      pictures: as `pixels` takes them.

    Returns:
      A `Summary`.

    Raises:
      TypeError, ValueError: one of them is not an image.
    """
    from tensorboardX import summary

    found = summary.Summary()
    for tag, picture in pictures.items():
        image = pixels(f"TensorBoardLogger: image {tag!r}", picture)
        height, width = image.shape[:2]
        shown = summary.Summary.Image(
            height=height, width=width, colorspace=1 if image.ndim == 2 else 3, encoded_image_string=encoded(image)
        )
        found.value.add(tag=tag, image=shown)
    return found


def plain_hyperparameters(hyperparameters: Mapping[str, Any]) -> dict[str, bool | int | float | str]:
    """Hyperparameters as Python values.

    Raises:
      TypeError: a name is not a string, or a value is not a number, bool or string.
    """
    plain: dict[str, bool | int | float | str] = {}
    for name, value in hyperparameters.items():
        value = value.item() if isinstance(value, np.generic) else value
        if not isinstance(name, str) or not isinstance(value, (str, bool, numbers.Real)):
            raise TypeError(
                f"TensorBoardLogger: `hyperparameters` must give a number, bool or string for each name, got "
                f"{name!r}: {value!r}. Write it as a string."
            )
        plain[name] = value if isinstance(value, (str, bool)) else float(value)
    return plain


def session_start(hyperparameters: Mapping[str, Any], metrics: Sequence[tuple[str, str]]) -> Any:
    """What TensorBoard's tab HPARAMS needs at the start of a run.

    Args:
      hyperparameters: as `plain_hyperparameters` gives them.
      metrics: the scalars to show with them: for each its folder, below the folder of the summary, and its tag.

    Returns:
      A `Summary`.
    """
    from tensorboardX import summary

    experiment, start, _ = summary.hparams(dict(hyperparameters), {})
    with _plugin_data(experiment) as data:
        for folder, tag in metrics:
            name = {"group": folder, "tag": tag}
            data.experiment.metric_infos.add(name=name, display_name=f"{folder} {tag}")
    return summary.Summary(value=[*experiment.value, *start.value])


def session_end(completed: bool) -> Any:
    """What TensorBoard's tab HPARAMS needs at the end of a run, a `Summary`: whether the run was completed."""
    from tensorboardX import summary

    _, _, end = summary.hparams({}, {})
    if not completed:
        with _plugin_data(end) as data:
            data.session_end_info.status = _STATUS_FAILURE
    return end


@contextmanager
def _plugin_data(summary: Any) -> Iterator[Any]:
    """The plugin's data in the first value of a summary, which the caller changes in place."""
    from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData  # pyright: ignore[reportAttributeAccessIssue]

    carrier = summary.value[0].metadata.plugin_data
    data = HParamsPluginData.FromString(carrier.content)
    yield data
    carrier.content = data.SerializeToString()
