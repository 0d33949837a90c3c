"""Scikit-learn's diabetes data: ten measurements of 442 patients, and the progress of the disease after a year."""

import numpy as np

Samples = tuple[np.ndarray, np.ndarray]


def load_diabetes(validation_share: float = 0.2) -> tuple[Samples, Samples, float]:
    """The training patients and the held-out patients, always the same ones, and the unit of the targets.

    Measurements and targets are standardized with the mean and the standard deviation of the training patients.

    Args:
      validation_share: the share of patients that are held out, between 0 and 1.

    Returns:
      Training and validation, each (measurements, targets): float32[patients, 10] and float32[patients, 1]; and the
      standard deviation of the targets. An error times this number is on the scale of the data.

    Raises:
      ModuleNotFoundError: scikit-learn is not installed.
    """
    try:
        from sklearn import datasets, model_selection
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "load_diabetes: the data come with scikit-learn, which is not installed. Run pip install '.[examples]'."
        ) from error
    measurements, targets = datasets.load_diabetes(return_X_y=True, scaled=False)
    columns = np.column_stack([measurements, targets])
    training, validation = model_selection.train_test_split(columns, test_size=validation_share, random_state=0)
    mean, deviation = np.mean(training, axis=0), np.std(training, axis=0)
    training, validation = (((part - mean) / deviation).astype(np.float32) for part in (training, validation))
    return (training[:, :-1], training[:, -1:]), (validation[:, :-1], validation[:, -1:]), float(deviation[-1])
