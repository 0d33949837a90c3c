"""The diabetes data: the split, and a scale that comes from the patients to train on alone."""

import sys

import numpy as np
import pytest
from sklearn import datasets, model_selection, preprocessing

from examples.datasets.diabetes import load_diabetes


def test_89_of_442_patients_are_held_out():
    training, validation, _ = load_diabetes()
    assert [array.shape for array in (*training, *validation)] == [(353, 10), (353, 1), (89, 10), (89, 1)]
    assert {array.dtype for array in (*training, *validation)} == {np.dtype(np.float32)}


def test_no_patient_is_in_both_parts():
    (training, _), (validation, _), _ = load_diabetes()
    assert len(np.unique(np.concatenate([training, validation]), axis=0)) == 442


def test_columns_to_train_on_have_mean_0_and_deviation_1():
    training, _, _ = load_diabetes()
    columns = np.column_stack(training)
    np.testing.assert_allclose(columns.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(columns.std(axis=0), 1, atol=1e-6)


def test_patients_held_out_are_scaled_as_scikit_learn_does_by_those_to_train_on():
    _, (measurements, targets), unit = load_diabetes()
    parts = model_selection.train_test_split(
        *datasets.load_diabetes(return_X_y=True, scaled=False), test_size=0.2, random_state=0
    )
    training, held_out, training_targets, held_out_targets = parts
    np.testing.assert_allclose(
        measurements, preprocessing.StandardScaler().fit(training).transform(held_out), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(targets[:, 0] * unit + training_targets.mean(), held_out_targets, rtol=1e-5)


def test_the_absence_of_scikit_learn_says_which_extra_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install '\.\[examples\]'"):
        load_diabetes()
