"""What host callbacks are shown: one moment of a loop, and the rows of a dispatch."""

import json

import numpy as np
import pytest

from jaxloop.errors import StateMismatchError
from jaxloop.events import Phase, Scope
from jaxloop.loop import COUNTERS, STEP_FIELDS
from jaxloop.views import Columns, LoopView

VALUES = dict.fromkeys(COUNTERS, np.int32(3)) | {
    "stats": {"loss": 0.5},
    "phase": Phase.TRAINING,
    "validation_set": None,
    "stop": 0,
}


@pytest.fixture
def cancelled():
    return []


@pytest.fixture
def make_view(cancelled):
    def make(reads="stats", **values):
        return LoopView(VALUES | values, reads=reads, name="tell", cancel=cancelled.append)

    return make


@pytest.mark.parametrize("name", [*COUNTERS, "stats", "phase", "stop"])
@pytest.mark.parametrize("reads", ["stats", "step"])
def test_counters_and_statistics_are_read_by_all(make_view, reads, name):
    assert getattr(make_view(reads), name) == VALUES[name]


@pytest.mark.parametrize("name", STEP_FIELDS)
def test_the_step_at_hand_is_read_where_it_is_declared(make_view, name):
    assert getattr(make_view("step", **{name: "held"}), name) == "held"


@pytest.mark.parametrize("name", STEP_FIELDS)
def test_the_step_at_hand_undeclared_raises_with_the_fix(make_view, name):
    message = rf"'tell' declares reads='stats', which does not hold `loop.{name}`.*reads='step'\)"
    with pytest.raises(AttributeError, match=message):
        getattr(make_view(), name)


@pytest.mark.parametrize("name", ["model", "opt_state", "key", "callback_state", "metrics"])
@pytest.mark.parametrize("reads", ["stats", "step"])
def test_the_rest_of_the_loop_undeclared_raises_with_the_fix(make_view, reads, name):
    with pytest.raises(AttributeError, match=rf"declares reads='{reads}'.*`loop.{name}`.*reads='loop'\)"):
        getattr(make_view(reads), name)


@pytest.mark.parametrize("name", ["replace", "record", "remember"])
def test_the_methods_of_a_loop_raise_with_the_fix(make_view, name):
    with pytest.raises(AttributeError, match=rf"'tell': `loop.{name}` needs the loop itself.*reads='loop'\)"):
        getattr(make_view(), name)


def test_a_view_cannot_be_edited(make_view):
    with pytest.raises(AttributeError):
        make_view().step = 4


def test_a_view_can_cancel(make_view, cancelled):
    view = make_view()
    assert view.cancel(Scope.EPOCH) is view
    assert cancelled == [Scope.EPOCH]


def test_a_view_cancels_nothing_where_the_condition_does_not_hold(make_view, cancelled):
    make_view().cancel(Scope.EPOCH, when=np.False_)
    assert cancelled == []


def test_a_view_refuses_to_cancel_what_is_no_scope(make_view):
    with pytest.raises(TypeError, match=r"LoopView.cancel: `scope` must be a jaxloop.Scope, got 'FIT'"):
        make_view().cancel("FIT")


def test_the_repr_of_a_view_tells_its_place(make_view):
    assert repr(make_view()).startswith("LoopView(phase=Phase.TRAINING, step=3, epoch=3")


def test_statistics_are_decoded_as_they_were(columns):
    rows = columns(loss=[0.5, np.nan, -0.0])
    np.testing.assert_array_equal(rows["loss"], np.float32([0.5, np.nan, -0.0]))
    assert rows["loss"].dtype == np.float32


def test_counters_are_those_at_the_batch_and_not_behind_it(columns):
    rows = columns(step=7, batch_index=2, loss=[0.5, 0.25])
    assert rows["step"].tolist() == [7, 8]
    assert rows["batch_index"].tolist() == [2, 3]


def test_in_validation_no_training_step_was_taken(columns):
    rows = columns(Phase.VALIDATION, step=7, loss=[0.5, 0.25])
    assert rows["step"].tolist() == [7, 7]
    assert rows["batch_index"].tolist() == [0, 1]


def test_reading_a_column_twice_gives_the_same(columns):
    rows = columns(step=7, loss=[0.5, 0.25])
    assert rows["step"].tolist() == rows["step"].tolist() == [7, 8]


def test_the_columns_are_the_counters_and_the_statistics(columns):
    rows = columns(loss=[0.5], norm=[2.0])
    assert set(rows) == {*COUNTERS, "loss", "norm"}
    assert len(rows) == 8
    assert rows.stats == ("loss", "norm")


def test_a_column_that_is_not_there_raises(columns):
    with pytest.raises(KeyError, match="accuracy"):
        columns(loss=[0.5])["accuracy"]


def test_the_last_row_alone_can_be_had(columns):
    last = columns(step=7, loss=[0.5, 0.25]).last()
    assert (last.count, last["loss"].tolist(), last["step"].tolist()) == (1, [0.25], [8])


def test_rows_kept_as_bytes_come_back(columns):
    first, second = columns(step=0, loss=[0.5, np.nan]), columns(step=2, loss=[0.125])
    both = second.with_bits(first.bits() + second.bits())
    np.testing.assert_array_equal(both["loss"], np.float32([0.5, np.nan, 0.125]))
    assert both["step"].tolist() == [0, 1, 2]


def test_no_bytes_are_no_rows(columns):
    assert columns(loss=[0.5]).with_bits(b"").count == 0


def test_columns_decoded_do_not_share_memory_with_the_rows(columns):
    rows = columns(loss=[0.5])
    rows["loss"][0] = 9.0
    assert rows.last()["loss"][0] == 0.5


def test_the_repr_of_columns_tells_how_many_of_what(columns):
    assert repr(columns(loss=[0.5, 0.25])).startswith("Columns(2 training rows of step, epoch")


@pytest.fixture
def odd_rows(columns):
    """Two rows whose bits are easily lost: NaN with payloads, -0.0, integers beyond 2**24, the largest uint32."""
    payloads = np.array([0x7FC04A4C, 0xFFC00123], np.uint32).view(np.float32)
    counts = np.array([2**24 + 1, -(2**31)], np.int32)
    return columns(loss=payloads, norm=[-0.0, 0.1], count=counts, large=np.array([2**32 - 1, 7], np.uint32), epoch=3)


def test_rows_come_back_from_json_bit_for_bit(odd_rows):
    again = Columns.from_json(json.loads(json.dumps(odd_rows.to_json(), allow_nan=False, sort_keys=True)))
    assert (again.phase, again.batch_size, list(again)) == (odd_rows.phase, odd_rows.batch_size, list(odd_rows))
    for name in odd_rows:
        assert again[name].dtype == odd_rows[name].dtype
        assert again[name].tobytes() == odd_rows[name].tobytes()
    assert again.bits() == odd_rows.bits()


def test_no_rows_come_back_from_json_as_none(odd_rows):
    again = Columns.from_json(odd_rows.with_bits(b"").to_json())
    assert (again.count, again["count"].dtype) == (0, np.dtype("int32"))


def test_rows_whose_columns_lie_elsewhere_can_follow_those_of_before(odd_rows, columns):
    again = {name: odd_rows[name] for name in ("large", "count", "loss", "norm")}
    other = columns(**again, epoch=3)
    assert other.bits() != odd_rows.bits()
    assert other.placed_as(odd_rows).bits() == odd_rows.bits()
    assert odd_rows.placed_as(odd_rows) is odd_rows


@pytest.mark.parametrize("change", [{"count": [1.0, 2.0]}, {"more": [1.0, 2.0]}])
def test_rows_of_other_columns_cannot_follow_those_of_before(odd_rows, columns, change):
    stats = {name: odd_rows[name] for name in ("loss", "norm", "count", "large")}
    with pytest.raises(StateMismatchError, match=r"have changed within the run.*count int32.*Use the metrics and call"):
        columns(**stats | change).placed_as(odd_rows)


def test_the_bits_of_the_last_row_are_those_of_the_decoded_column(columns) -> None:
    rows = columns(loss=[0.5, float("nan")], batch_index=3)
    assert rows.last_bits("loss") == rows["loss"].view(np.int32)[-1]
