"""The five tasks: what each script gives, and how many lines it takes here and elsewhere."""

import importlib.util
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

TASKS = Path(__file__).parents[2] / "examples" / "tasks"
NAMES = ["tabular", "texts", "two_heads", "transfer", "search"]
OTHERS = ["keras", "lightning"]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Runs a script in an empty folder, and gives its variables."""
    pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(TASKS)
    return lambda name: runpy.run_path(str(TASKS / f"{name}.py"))


def lines_of(script: Path) -> int:
    """How many lines a script has, without blank ones and comments."""
    lines = (line.strip() for line in script.read_text(encoding="utf-8").splitlines())
    return sum(1 for line in lines if line and not line.startswith("#"))


@pytest.mark.parametrize("name", NAMES)
def test_a_task_takes_at_most_thirty_lines(name: str) -> None:
    assert lines_of(TASKS / f"{name}.py") <= 30


def test_the_table_has_the_lines_of_each_script() -> None:
    rows = re.findall(r"^\| `(\w+)\.py` \|.*\| (\d+) \| (\d+) \| (\d+) \|$", (TASKS / "README.md").read_text(), re.M)
    found = [
        [name, *(str(lines_of(TASKS / f"{name}{end}.py")) for end in ("", "_keras", "_lightning"))] for name in NAMES
    ]
    assert [list(row) for row in rows] == found


def test_the_data_are_what_they_say(run: Any) -> None:
    data = run("tasks_data")
    (features, labels), _, (_, test_labels) = data["tabular"]()
    assert features.shape == (350, 30)
    np.testing.assert_allclose([features.mean(), features.std()], [0, 1], atol=1e-5)
    assert (labels.sum(), test_labels.sum()) == (158, 27)
    training, validation = data["texts"]()
    assert (len(training), len(validation)) == (1000, 200)
    for tokens, label in training:
        assert int((tokens == 1).sum() > (tokens == 2).sum()) == label
        assert (tokens > 0).all()
    old, new, test = data["old_and_new_digits"]()
    assert [sorted(set(labels.tolist())) for _, labels in (old, new, test)] == [[0, 1, 2, 3, 4]] * 3
    assert len(new[0]) == len(new[1]) == 100


def test_texts_are_classified_whatever_their_padding(run: Any) -> None:
    variables = run("texts")
    assert variables["accuracy"] > 0.95
    one = {length: np.zeros((1, length), np.int32) for length in (16, 64)}
    for text in one.values():
        text[0, :5] = [7, 1, 9, 1, 2]
    outputs = [np.asarray(variables["loop"].model(text)) for text in one.values()]
    np.testing.assert_allclose(outputs[0], outputs[1], rtol=1e-5)


@pytest.mark.slow
def test_the_body_learns_at_a_tenth_of_the_rate_of_the_head(run: Any) -> None:
    variables = run("transfer")
    rates = variables["history"].batches
    np.testing.assert_allclose(rates["learning_rate/body"], 0.1 * rates["learning_rate/head"], rtol=1e-6)
    assert rates["learning_rate/head"].max() == np.float32(1e-2)
    assert variables["accuracy"] > 0.7


@pytest.mark.slow
def test_eighteen_fits_compile_each_program_once(run: Any) -> None:
    variables = run("search")
    accuracies = variables["accuracies"]
    assert accuracies.shape == (6, 3)
    assert sorted(re.sub(r" x\d+$", "", name) for name in variables["compiled"]) == ["training_step", "validation_step"]
    assert accuracies[-1].min() > 0.85
    assert accuracies[0].max() < 0.5  # with so small a rate
    assert len(set(accuracies[3])) > 1  # the seeds differ


def test_the_best_weights_are_saved_and_loaded(run: Any) -> None:
    variables = run("tabular")
    losses = variables["history"].epochs["validation_loss"]
    assert variables["accuracy"] > 0.9
    assert len(losses) == losses.argmin() + 6 < 100
    measured = variables["training_loop"].evaluate(variables["best"], variables["validation"])
    assert measured["loss"] == pytest.approx(losses.min(), rel=1e-6)
    features, labels = variables["validation"]
    logits = np.asarray(variables["loop"].model(features), np.float64)
    costs = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(labels)), labels]
    assert measured["loss"] == pytest.approx((costs * variables["class_weights"][labels]).mean(), rel=1e-5)


@pytest.mark.slow
def test_each_head_has_a_loss_and_a_metric_of_its_own(run: Any) -> None:
    variables = run("two_heads")
    epochs = variables["history"].epochs
    for phase in ("", "validation_"):
        whole = epochs[f"{phase}digit_loss"] + 0.5 * epochs[f"{phase}parity_loss"]
        np.testing.assert_allclose(epochs[f"{phase}loss"], whole, rtol=1e-5)
    images, targets = variables["validation"]
    outputs = variables["loop"].model(images)
    for head, accuracy in variables["accuracies"].items():
        correct = np.asarray(outputs[head]).argmax(1) == targets[head]
        assert accuracy == pytest.approx(correct.mean(), abs=1e-6)
        assert accuracy > 0.85


@pytest.mark.slow
@pytest.mark.parametrize("framework", OTHERS)
@pytest.mark.parametrize("name", NAMES)
def test_the_same_task_in_another_framework_runs(framework: str, name: str, tmp_path: Path) -> None:
    if importlib.util.find_spec(framework) is None:
        pytest.skip(f"{framework} is not installed")
    script = [sys.executable, str(TASKS / f"{name}_{framework}.py")]
    run = subprocess.run(script, capture_output=True, text=True, timeout=600, check=False, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    last = run.stdout.strip().splitlines()[-1]
    best = max(map(float, re.findall(r"([\d.]+)%", last)))
    assert best > 70, last
