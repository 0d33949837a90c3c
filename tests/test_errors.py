"""The exceptions that are jaxloop's own."""

import pickle

import jaxloop as jl


def test_a_loss_that_is_not_finite_is_caught_as_pythons_floating_point_error():
    assert issubclass(jl.errors.NonFiniteError, FloatingPointError)


def test_an_error_survives_pickling_with_its_message():
    error = pickle.loads(pickle.dumps(jl.errors.NonFiniteError("at step 3")))
    assert (type(error), str(error)) == (jl.errors.NonFiniteError, "at step 3")


def test_whatever_is_wrong_with_a_checkpoint_is_caught_as_one_kind():
    assert issubclass(jl.errors.CheckpointError, RuntimeError)
    assert issubclass(jl.errors.CorruptCheckpointError, jl.errors.CheckpointError)
    assert issubclass(jl.errors.StateMismatchError, jl.errors.CheckpointError)
