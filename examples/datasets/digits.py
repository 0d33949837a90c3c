"""Scikit-learn's handwritten digits: 1,797 images of 8x8 pixels that come with the package."""

import numpy as np

Samples = tuple[np.ndarray, np.ndarray]


def load_digits(validation_share: float = 0.2) -> tuple[Samples, Samples]:
    """The training samples and the held-out samples, always the same ones, with the same proportions of classes.

    Args:
      validation_share: the share of samples that are held out, between 0 and 1.

    Returns:
      Training and validation, each (images, labels): float32[samples, 8, 8, 1] in [0, 1] and int32[samples].

    Raises:
      ModuleNotFoundError: scikit-learn is not installed.
    """
    try:
        from sklearn import datasets, model_selection
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "load_digits: the digits come with scikit-learn, which is not installed. Run pip install '.[examples]'."
        ) from error
    pixels, labels = datasets.load_digits(return_X_y=True)
    images = np.asarray(pixels, np.float32).reshape(-1, 8, 8, 1) / 16
    labels = np.asarray(labels, np.int32)
    split = model_selection.train_test_split(
        images, labels, test_size=validation_share, stratify=labels, random_state=0
    )
    training_images, validation_images, training_labels, validation_labels = map(np.asarray, split)
    return (training_images, training_labels), (validation_images, validation_labels)
