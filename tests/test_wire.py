"""The wire: a loop there and back, bit for bit, and whose arrays are whose."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxloop.events import TRAINING, Phase
from jaxloop.loop import COUNTERS, new_loop
from jaxloop.ownership import on_device, own_copy, with_host_scalars
from jaxloop.placement import resolve
from jaxloop.wire import layout_of

PLACEMENT = resolve(None)
words = st.integers(0, 2**32 - 1)
numbers = st.one_of(
    st.tuples(st.sampled_from(["float32", "int32", "uint32"]), words, st.just(())),
    st.tuples(st.sampled_from(["float32", "int32", "uint32"]), words, st.sampled_from([(1,), (2, 3), (0,)])),
)


def with_bits(drawn):
    """An array of the dtype and shape whose words are all the one drawn."""
    dtype, word, shape = drawn
    return np.full(shape, word, np.uint32).view(dtype) if shape else np.uint32(word).view(dtype)


keys = st.builds(jax.random.key, st.integers(0, 2**31 - 1), impl=st.sampled_from(["threefry2x32", "rbg"]))
others = st.sampled_from([np.bool_(True), np.float16(1.5), jnp.bfloat16(-2), np.int8(-3), np.array([True, False])])
memories = st.dictionaries(
    st.text("abcdefgh", min_size=1, max_size=3), st.one_of(numbers.map(with_bits), keys, others), max_size=4
)
statistics = st.dictionaries(
    st.text("abcdefgh", min_size=1, max_size=3), words.map(lambda word: np.uint32(word).view(np.float32)), max_size=4
)
counters = st.lists(st.integers(-(2**31), 2**31 - 1).map(np.int32), min_size=7, max_size=7)


@st.composite
def changes(draw):
    """Fields of a loop with any bits in them."""
    places = dict(zip((*COUNTERS, "stop"), draw(counters), strict=True))
    return {
        **places,
        "stats": draw(statistics),
        "callback_state": draw(memories),
        "phase": draw(st.sampled_from(Phase)),
    }


def in_bits(tree):
    """Structure of a loop, and dtype, shape and bytes of each leaf."""
    leaves, structure = jax.tree.flatten(tree)
    found = []
    for leaf in leaves:
        kind = str(leaf.dtype)
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        found.append((kind, np.shape(leaf), np.asarray(leaf).tobytes()))
    return structure, found


@given(changes=changes())
def test_a_loop_comes_back_from_the_wire_bit_for_bit(changes, base):
    loop = base.replace(**changes)
    layout = layout_of(loop)
    assert in_bits(layout.from_wire(layout.to_wire(loop))) == in_bits(loop)


@settings(max_examples=15)
@given(changes=changes(), in_place=st.booleans())
def test_packing_a_traced_loop_agrees_with_to_wire(changes, in_place, base):
    loop = base.replace(**changes)
    layout = layout_of(loop)
    packed = jax.jit(lambda loop: layout.pack(loop, False, in_place=in_place))(loop)
    assert in_bits(packed) == in_bits(layout.to_wire(loop))


@settings(max_examples=15)
@given(changes=changes())
def test_unpacking_a_traced_wire_gives_the_loop(changes, base):
    loop = base.replace(**changes)
    layout = layout_of(loop)
    assert in_bits(jax.jit(layout.unpack)(layout.to_wire(loop))) == in_bits(loop)


@given(changes=changes())
def test_loops_of_one_kind_have_equal_layouts(changes, base):
    first, second = base.replace(**changes), base.replace(**changes, key=jax.random.key(9))
    assert layout_of(first) == layout_of(second)
    assert hash(layout_of(first)) == hash(layout_of(second))


@pytest.fixture(scope="module")
def base(linear_model):
    """A loop for property tests, which take no fixture of a shorter life."""
    model = linear_model()
    return new_loop(model, optax.adam(0.1).init(model.params), jax.random.key(0))


@pytest.mark.parametrize(
    "change",
    [
        {"phase": Phase.TRAINING},
        {"stats": {"loss": np.float32(0)}},
        {"callback_state": {"best": np.float32(0)}},
        {"step": np.uint32(0)},
        {"key": jax.random.key(0, impl="rbg")},
        {"lasting": frozenset({"ema"})},
    ],
    ids=lambda change: next(iter(change)),
)
def test_loops_of_another_kind_have_another_layout(base, change):
    assert layout_of(base.replace(**change)) != layout_of(base)


def test_a_layout_does_not_depend_on_where_the_arrays_are(base):
    assert layout_of(on_device(base, PLACEMENT)) == layout_of(base)


def test_only_leaves_that_are_neither_scalars_nor_keys_travel_by_themselves(base):
    layout = layout_of(base)
    _, rest = layout.to_wire(base)
    assert sorted(leaf.shape for leaf in rest) == sorted([(2,), (3, 2)] * 3)  # params, two moments


def test_the_vector_holds_one_place_for_each_scalar_and_the_keys_words(base):
    layout = layout_of(base)
    vector, _ = layout.to_wire(base)
    assert (
        vector.shape == (layout.size,) == (1 + 8 + 1 + 2,)
    )  # whether it counted; counters, first step, stop; Adam's count; key
    assert vector.dtype == jnp.int32


def test_a_row_holds_what_logs_show_and_no_more(base):
    layout = layout_of(base.record("loss", 0.5))
    assert layout.row == 9
    assert set(layout.names) == {"counted", "stop", *COUNTERS, "loss"}


@pytest.mark.parametrize(
    ("phase", "first"),
    [(None, ["norm"]), (Phase.TRAINING, ["loss", "norm"]), (Phase.VALIDATION, ["validation_loss", "norm"])],
)
def test_what_a_step_of_its_phase_changes_comes_first_in_a_row(base, phase, first):
    stats = dict.fromkeys(("norm", "validation_loss", "loss"), np.float32(0))
    layout = layout_of(base.replace(phase=phase, metrics={"loss": np.float32(0)}, stats=stats))
    names = ["counted", "stop", "step", "batch_index", *first]
    assert list(layout.names[: len(names)]) == names
    assert sorted(layout.names) == sorted(["counted", "stop", *COUNTERS, *stats])


def test_the_row_of_a_loop_is_the_head_of_its_vector(base):
    loop = base.replace(step=np.int32(-5), stats={"loss": np.float32(0.5), "norm": np.float32(np.nan)})
    layout = layout_of(loop)
    np.testing.assert_array_equal(layout.row_of(loop, True), layout.vector(loop, True)[: layout.row])


def test_a_traced_row_says_whether_its_step_counted(base):
    layout = layout_of(base)
    vector, _ = jax.jit(layout.pack)(base, jnp.array(True))
    assert vector[0] == 1


def rows_of(layout, base, *steps):
    """Rows of steps given as (counted, stop, loss)."""
    return np.stack(
        [
            layout.row_of(base.replace(stop=np.int32(stop), stats={"loss": np.float32(loss)}), counted)
            for counted, stop, loss in steps
        ]
    )


@pytest.fixture
def layout(base):
    return layout_of(base.replace(stats={"loss": np.float32(0)}))


def test_reading_a_row_gives_its_columns_and_stop(base, layout):
    columns, stop = layout.reader(TRAINING, 8)(rows_of(layout, base, (True, 4, 0.5))[0])
    assert (columns["loss"].tolist(), columns.phase, columns.batch_size, stop) == ([0.5], Phase.TRAINING, 8, 4)


def test_reading_a_row_that_does_not_count_gives_its_stop_alone(base, layout):
    assert layout.reader(TRAINING, 8)(rows_of(layout, base, (False, 16, 0.5))[0]) == (None, 16)


def test_reading_many_rows_leaves_out_those_that_do_not_count(base, layout):
    rows = rows_of(layout, base, (True, 0, 0.5), (False, 0, 0.25), (True, 2, 0.125))
    columns, stop = layout.reader(TRAINING, 8)(rows)
    assert (columns["loss"].tolist(), stop) == ([0.5, 0.125], 2)


def test_reading_many_rows_of_which_none_counts_gives_their_stop_alone(base, layout):
    rows = rows_of(layout, base, (False, 0, 0.5), (False, 2, 0.125))
    assert layout.reader(TRAINING, 8)(rows) == (None, 2)


def test_a_loop_with_host_scalars_has_numpy_scalars_of_its_types(base):
    loop = with_host_scalars(on_device(base.record("loss", 0.5), PLACEMENT))
    assert isinstance(loop.step, np.int32)
    assert isinstance(loop.stats["loss"], np.float32)


def test_host_scalars_leave_the_arrays_where_they_are(base):
    assert with_host_scalars(base).model.params["weight"] is base.model.params["weight"]


def test_a_copy_lives_on_when_the_original_is_deleted(base):
    original = on_device(jax.tree.map(jnp.copy, base), PLACEMENT)
    copy = own_copy(original, PLACEMENT)
    jax.tree.map(lambda leaf: leaf.delete(), original)
    assert in_bits(copy) == in_bits(base)


def test_an_original_lives_on_when_its_copy_is_donated(base):
    layout = layout_of(base)
    wire = layout.to_wire(own_copy(base, PLACEMENT))
    jax.block_until_ready(jax.jit(lambda wire: layout.pack(layout.unpack(wire), True), donate_argnums=0)(wire))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(base) if isinstance(leaf, jax.Array))


def test_an_array_that_a_loop_holds_twice_can_be_donated(base):
    loop = base.remember("ema", base.model.params)
    layout = layout_of(loop)
    wire = layout.to_wire(own_copy(loop, PLACEMENT))
    after, _ = jax.jit(lambda wire: (layout.pack(layout.unpack(wire), True), 0), donate_argnums=0)(wire)
    assert in_bits(layout.from_wire(after)) == in_bits(loop)


def test_a_loop_on_the_device_is_all_device_arrays(base):
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(on_device(base, PLACEMENT)))
