"""The regression example: its figures beside those of scikit-learn, and what it logs."""

import pandas as pd
import pytest
from sklearn import dummy, linear_model, metrics

from examples.datasets.diabetes import load_diabetes

pytestmark = pytest.mark.slow  # trains examples or times contestants, for minutes in all


@pytest.fixture(scope="module")
def full_run(run_example, tmp_path_factory):
    """What the example printed behind the epochs, by name, and its CSV."""
    folder = tmp_path_factory.mktemp("regression")
    printed = run_example("regression.py", folder=folder).splitlines()
    assert printed[-4].startswith("Validation mean absolute error")
    figures = {name.strip(): float(value) for name, value in (line.split(":") for line in printed[-3:])}
    return figures, pd.read_csv(folder / "run/regression/log.csv")


def error_by_scikit_learn(estimator) -> float:
    (measurements, targets), (held_out, held_out_targets), unit = load_diabetes()
    estimator.fit(measurements, targets[:, 0])
    return unit * metrics.mean_absolute_error(held_out_targets[:, 0], estimator.predict(held_out))


def test_the_error_of_the_median_is_scikit_learn_s(full_run):
    figures, _ = full_run
    expected = error_by_scikit_learn(dummy.DummyRegressor(strategy="median"))
    assert figures["median of the training targets"] == pytest.approx(expected, abs=0.051)


def test_the_error_of_linear_regression_is_scikit_learn_s(full_run):
    figures, _ = full_run
    assert figures["linear regression"] == pytest.approx(
        error_by_scikit_learn(linear_model.LinearRegression()), abs=0.051
    )


def test_the_network_s_error_is_the_last_of_its_csv_on_the_scale_of_the_data(full_run):
    figures, rows = full_run
    last = rows.iloc[-1]
    assert last["phase"] == "validation"
    assert figures["this network"] == pytest.approx(load_diabetes()[2] * last["loss"], abs=0.051)


def test_the_network_is_better_than_the_median_by_a_tenth_at_least(full_run):
    figures, _ = full_run
    assert figures["this network"] < 0.9 * figures["median of the training targets"]


def test_three_steps_in_a_dispatch_log_what_single_steps_do(same_curve):
    """To the last digit but one: in a loop, XLA sums the losses of a batch in another order."""
    rows = same_curve("regression.py", tolerance=2e-7)
    assert rows["phase"].tolist() == (["training"] * 5 + ["validation"] * 3) * 2
