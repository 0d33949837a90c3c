"""How values show themselves: short, escaped, and without touching data or devices."""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest

import jaxloop as jl
from jaxloop.history import History
from jaxloop.measured import UNMEASURED
from jaxloop.shown import amount, array_rows, table
from tests import small


def test_a_table_escapes_every_text():
    shown = table("<a>", [["<b>", "&"]], header=["<c>", "d"], notes=["<e>"])
    assert all(f"&lt;{letter}&gt;" in shown for letter in "abce")
    assert "&amp;" in shown
    assert "<a>" not in shown


def test_an_amount_counts_arrays_and_leaves_out_what_is_none():
    assert amount({"kernel": np.zeros((4, 3), np.float32), "b": None}) == "12 parameters in 1 arrays, 4.8e-05 MB"
    assert amount({"key": jax.random.key(0), "other": object()}).startswith("1 parameters in 1 arrays")


def test_of_many_arrays_the_first_twenty_are_shown():
    rows = array_rows([np.zeros(2, np.float32)] * 25)
    assert rows[0] == ("[0]", "float32[2]", "2")
    assert rows[-1] == ("and 5 more", "", "")
    assert len(rows) == 21


def test_a_model_says_what_it_is_made_of():
    assert repr(small.model()) == "Model(15 parameters in 2 arrays, 6e-05 MB; apply)"
    shown = small.model()._repr_html_()
    assert all(text in shown for text in ("[&#x27;kernel&#x27;]", "float32[4, 3]", ">12<"))


def test_a_model_can_be_shown_while_it_is_traced_or_holds_no_arrays():
    seen = []
    jax.jit(lambda model: seen.append((repr(model), model._repr_html_())))(small.model())
    assert seen[0][0] == repr(small.model())
    assert repr(jax.tree.map(lambda leaf: None, small.model())).startswith("Model(0 parameters")
    assert "Model(" in jax.tree.map(lambda leaf: object(), small.model())._repr_html_()


def test_a_training_loop_says_what_it_is_made_of():
    @jl.on_host(jl.Event.FIT_END)
    def finish(loop, event):
        pass

    training_loop = small.training_loop(callbacks=[jl.callbacks.early_stopping(), finish])
    shown = repr(training_loop)
    assert "training TrainingEpochs(12 samples, batch_size=4" in shown
    assert "validation Batches(2 batches of 4)" in shown
    assert "loss softmax_cross_entropy" in shown
    assert "metrics loss, accuracy" in shown
    assert "callbacks early_stopping, test_a_training_loop" in shown
    assert "<td>TrainingEpochs(12 samples" in training_loop._repr_html_()


def test_of_data_of_other_libraries_only_the_class_is_shown():
    class Loader(list):
        def __repr__(self):
            raise AssertionError("it may be long")

    training_loop = small.training_loop(training=Loader([[(np.zeros((4, 4)), np.zeros(4))]]), validation={"a": [1]})
    assert repr(training_loop).startswith("TrainingLoop(training Loader, a list, loss")


def test_a_training_loop_without_a_loss_shows_its_step():
    def my_step(model, loop):
        raise NotImplementedError

    training_loop = small.training_loop(loss_fn=None, differentiable_step=my_step, metrics=[])
    assert "loss test_a_training_loop_without_a_loss_shows_its_step.my_step" in repr(training_loop)


def test_showing_starts_no_backend():
    code = (
        "import jax, numpy as np, optax, jaxloop as jl\n"
        "model = jl.Model(lambda *a, **k: None, {'w': np.zeros(3, np.float32)})\n"
        "data = jl.TrainingEpochs((np.zeros((8, 3)), np.zeros(8, int)), batch_size=4)\n"
        "loop = jl.TrainingLoop(data, optimizer=optax.sgd(0.1), loss_fn=jl.losses.softmax_cross_entropy)\n"
        "[(repr(each), each._repr_html_()) for each in (model, loop)]\n"
        "from jax._src import xla_bridge\n"
        "assert not xla_bridge._backends, xla_bridge._backends\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ)


def test_a_history_shows_its_last_epochs_and_how_it_ended():
    epochs = {"epoch": np.arange(1, 9), "loss": np.linspace(1.0, 0.3, 8), "<b>": np.arange(8.0)}
    epochs["validation_loss"] = np.array([UNMEASURED] * 7 + [0.25])
    epochs["nothing"] = np.array([UNMEASURED] * 8)
    shown = History(epochs, {}, "cancelled", ending="Stopped after epoch 8 of 9: <me>")._repr_html_()
    assert "History(cancelled after 8 epochs)" in shown
    assert "Stopped after epoch 8 of 9: &lt;me&gt;" in shown
    assert "<th>&lt;b&gt;</th>" in shown
    assert "nothing" not in shown
    assert [f"<tr><td>{epoch}</td>" in shown for epoch in (3, 4, 8)] == [False, True, True]
    assert "<td>-</td>" in shown


@pytest.mark.parametrize("epochs", [{}, {"epoch": np.array([], int)}])
def test_a_history_without_epochs_can_be_shown(epochs):
    assert "History(completed after 0 epochs)" in History(epochs, {}, "completed")._repr_html_()
