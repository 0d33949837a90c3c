"""The command that measures loggers runs, offline, and compares each with none."""

import pytest

from benchmarks.loggers import LOGGERS, main
from tests.callbacks import offline

pytest.importorskip("wandb", reason="wandb is not installed: pip install '.[wandb]'")
pytest.importorskip("sqlalchemy", reason="MLflow's databases need sqlalchemy: pip install '.[mlflow]'")
pytestmark = [pytest.mark.slow, *(pytest.mark.filterwarnings(each) for each in offline.WARNINGS)]


def test_the_command_prints_a_row_for_none_each_and_all(monkeypatch, capsys):
    for name, value in offline.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    costs = main(["--turns", "1", "--epochs", "1", "--steps", "4"])
    assert list(costs) == [*LOGGERS, "all"]
    assert all(cost.wall > 0 and cost.cpu > 0 for (cost,) in costs.values())
    rows = [line.split("|")[1].strip() for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert rows == ["loggers", "---", *LOGGERS, "all"]


def test_only_what_is_asked_for_is_measured_beside_none(monkeypatch, capsys):
    costs = main(["--turns", "2", "--epochs", "1", "--steps", "4", "--only", "csv"])
    assert {name: len(turns) for name, turns in costs.items()} == {"none": 2, "csv": 2}
    assert "| none | " in capsys.readouterr().out
