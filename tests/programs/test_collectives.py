"""Collectives, told from programs of CPUs that are compiled here, and from texts that were compiled for others."""

from pathlib import Path

import pytest

from jaxloop.programs.collectives import Collective, collectives_of
from tests.devices import run_on_devices

#: Optimized programs of five training steps of a net of two layers, without the lines that hold no collective and lead
#: to none. libtpu 0.0.42 compiled them for eight chips, and XLA's CUDA compiler for eight cards.
TEXTS = Path(__file__).parent / "hlo"
SMALL = 4 * (64 * 128 + 128 * 8 + 128 + 1)  # bytes of the gradient of the smaller net, and of the loss
LARGE = 4 * (4096 * 8192 + 8192 * 8)  # bytes of the two matrices of the larger net


def text(name):
    return (TEXTS / f"{name}.txt").read_text(encoding="utf-8")


def test_data_parallel_on_tpus_is_one_all_reduce_a_step_though_libtpu_notes_no_length_of_the_loop():
    assert collectives_of(text("tpu_data_parallel")) == (Collective("all-reduce", 5, 5 * SMALL),)
    assert collectives_of(text("tpu_data_parallel"), steps=5) == (Collective("all-reduce", 1, SMALL),)


def test_an_asynchronous_one_of_libtpu_counts_once_though_it_is_written_in_three_fusions():
    """Two matrices are gathered, one of them while the step computes; their gradients are reduced and scattered."""
    assert collectives_of(text("tpu_fully_sharded"), steps=5) == (
        Collective("all-gather", 2, LARGE),
        Collective("reduce-scatter", 2, LARGE / 8),
        Collective("all-reduce", 1, 4 * (8192 + 1)),  # the bias, which is not sharded, and the loss
    )


def test_one_that_takes_several_arrays_counts_once_on_gpus_too():
    matrices = 4 * (64 * 128 + 128 * 8)
    assert collectives_of(text("gpu_fully_sharded"), steps=5) == (
        Collective("all-gather", 1, matrices),
        Collective("reduce-scatter", 1, matrices / 8),
        Collective("all-reduce", 1, 4 * (128 + 1)),
    )


def test_in_a_loop_of_no_known_length_it_is_that_of_one_turn():
    (found,) = collectives_of(text("tpu_while"))
    assert found == Collective("all-reduce", 1, SMALL, in_loop=True)
    assert str(found) == "1 all-reduce of 0.03738 MB in each turn of a loop"


@pytest.mark.parametrize(
    ("old", "new", "count"),
    [
        ("constant(5)", "constant(7)", 7),
        ("constant(0)", "constant(2)", 3),
        ("direction=LT", "direction=NE", None),
        ("copy(%get-tuple-element.184)", "copy(%get-tuple-element.200)", None),  # it adds to another part of its state
    ],
)
def test_a_loop_that_does_not_count_from_a_constant_to_another_has_no_known_length(old, new, count):
    changed = text("tpu_data_parallel").replace(old, new)
    assert changed != text("tpu_data_parallel")
    (found,) = collectives_of(changed)
    assert (found.count, found.in_loop) == ((1, True) if count is None else (count, False))


def test_a_step_that_counts_in_twos_turns_half_as_often():
    one, two = (f".sunk = s32[]{{:T(128)}} constant({step})" for step in (1, 2))
    changed = text("tpu_data_parallel").replace(one, two)
    assert collectives_of(changed)[0].count == 3


def test_of_branches_the_one_with_the_most_bytes_counts():
    program = """HloModule branches
%small {
  ROOT %all-reduce.1 = f32[2]{0} all-reduce(%p), channel_id=1, to_apply=%add
}
%large {
  ROOT %all-reduce.2 = bf16[3,5]{1,0} all-reduce(%p), channel_id=2, to_apply=%add
}
ENTRY %main {
  ROOT %conditional = f32[] conditional(%i, %a, %b), branch_computations={%small, %large}
}
"""
    assert collectives_of(program) == (Collective("all-reduce", 1, 30),)


def test_an_exchange_and_a_permutation_have_the_bytes_of_their_results():
    program = """HloModule exchange
ENTRY %main {
  %all-to-all.1 = (s8[4]{0}, s8[4]{0}) all-to-all(%a, %b), channel_id=1
  %start = (f32[8]{0}, f32[8]{0}, u32[], u32[]) collective-permute-start(%c), channel_id=2
  ROOT %done = f32[8]{0} collective-permute-done(%start)
}
"""
    assert collectives_of(program) == (Collective("collective-permute", 1, 32), Collective("all-to-all", 1, 8))


def test_a_program_of_one_device_has_none():
    assert collectives_of("HloModule one\n\nENTRY %main {\n  ROOT %add = f32[] add(%a, %b)\n}\n") == ()


def test_a_text_that_is_no_program_is_refused():
    with pytest.raises(ValueError, match=r"the text has no ENTRY, so it is no HLO: 'nothing'. Give compiled.as_text"):
        collectives_of("nothing")


def test_of_programs_that_are_compiled_here():
    """Data parallel and fully sharded, alone, in a scan, in a scan of scans, and in a loop of no known length."""
    run_on_devices(
        """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from jaxloop.programs.collectives import Collective, collectives_of

mesh = Mesh(np.array(jax.devices()), ("data",))
whole, rows = NamedSharding(mesh, P()), NamedSharding(mesh, P("data"))

def abstract(*shape, axis=0, sharded=True):
    place = NamedSharding(mesh, P(*[None] * axis, "data")) if sharded else whole
    return jax.ShapeDtypeStruct(shape, np.float32, sharding=place)

def loss(params, batch):
    return jnp.mean((jnp.tanh(batch[0] @ params["a"]) @ params["b"] - batch[1]) ** 2)

def step(params, batch):
    value, gradient = jax.value_and_grad(loss)(params, batch)
    return jax.tree.map(lambda a, b: a - 0.1 * b, params, gradient), value

def micro(params, batches):
    def one(total, batch):
        value, gradient = jax.value_and_grad(loss)(params, batch)
        total = jax.tree.map(lambda a, b: jax.lax.with_sharding_constraint(a + b, whole), total, gradient)
        return total, value
    gradient, values = jax.lax.scan(one, jax.tree.map(jnp.zeros_like, params), batches)
    return jax.tree.map(lambda a, b: a - 0.1 * b, params, gradient), values

def found(function, params, batch, steps=1, out=whole):
    text = jax.jit(function, out_shardings=out).lower(params, batch).compile().as_text()
    return collectives_of(text, steps)

matrices = 4 * (64 * 128 + 128 * 8)
params = {"a": abstract(64, 128, sharded=False), "b": abstract(128, 8, sharded=False)}
batch = abstract(32, 64), abstract(32, 8)
reduced = (Collective("all-reduce", 1, matrices + 4),)
assert found(step, params, batch) == reduced

stacked = abstract(5, 32, 64, axis=1), abstract(5, 32, 8, axis=1)
scanned = lambda params, batches: jax.lax.scan(step, params, batches)
assert found(scanned, params, stacked, steps=5) == reduced

nested = abstract(5, 3, 32, 64, axis=2), abstract(5, 3, 32, 8, axis=2)
scans = lambda params, batches: jax.lax.scan(micro, params, batches)
assert found(scans, params, nested, steps=5) == (Collective("all-reduce", 3, 3 * (matrices + 4)),)

def until(params, batch):
    return jax.lax.while_loop(lambda s: s[1] > 0.01, lambda s: step(s[0], batch), (params, jnp.float32(1)))
assert found(until, params, batch) == (Collective("all-reduce", 1, matrices + 4, in_loop=True),)

def gathered(params, batch):
    def of_whole(params, batch):
        return loss(jax.tree.map(lambda leaf: jax.lax.with_sharding_constraint(leaf, whole), params), batch)
    value, gradient = jax.value_and_grad(of_whole)(params, batch)
    return jax.tree.map(lambda a, b: a - 0.1 * b, params, gradient), value

params = {"a": abstract(64, 128), "b": abstract(128, 8)}
out = ({"a": rows, "b": rows}, whole)
sharded = found(gathered, params, batch, out=out)
assert {one.kind: one.bytes for one in sharded}["all-gather"] == matrices, sharded
several = found(lambda params, batches: jax.lax.scan(gathered, params, batches), params, stacked, steps=5, out=out)
assert several == sharded, (several, sharded)
""",
        8,
    )
