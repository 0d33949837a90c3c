"""Ready-made placements: what they divide, and what they refuse."""

import pytest

import jaxloop as jl
from tests.devices import run_on_devices


@pytest.mark.parametrize("make", [jl.data_parallel, jl.fully_sharded])
@pytest.mark.parametrize("devices", [[], ["cpu:0"], [None]])
def test_what_are_no_devices_is_refused_by_name(make, devices):
    with pytest.raises(TypeError, match=rf"^{make.__name__}: `devices` must be devices, at least one, such as jax"):
        make(devices)


READY = """
import jax, numpy as np
from jax.sharding import PartitionSpec as P
import jaxloop as jl

leaf = lambda *shape: jax.ShapeDtypeStruct(shape, np.float32)
devices = jax.devices()

data = jl.data_parallel()
assert data.mesh.shape == {"data": 8} and list(data.mesh.devices) == devices and data.parts == 8
assert data.rule("kernel", leaf(1024, 1024)) == P() and not data.gather
assert data == jl.data_parallel(devices) and hash(data) == hash(jl.data_parallel(devices))
assert data != jl.data_parallel(devices[:4]) and jl.data_parallel(devices[:4]).parts == 4
assert jl.data_parallel(devices[:1]).single

sharded = jl.fully_sharded()
assert sharded.gather and sharded.parts == 8
for shape, expected in {
    (1024, 2048): P(None, "data"),   # the largest axis
    (2048, 1024): P("data"),
    (64, 64): P("data"),             # of equal ones the first
    (24, 1001): P("data"),           # 1001 is no multiple of 8
    (1001, 24): P(None, "data"),
    (1001, 1003): P(),               # nothing divides
    (8, 127): P(),                   # 1016 numbers are few
    (8, 128): P(None, "data"),       # 1024 are not
    (3, 3, 64, 128): P(None, None, None, "data"),
    (1024,): P("data"),
    (1023,): P(),
    (): P(),
    (0, 1024): P(),
}.items():
    assert sharded.rule("kernel", leaf(*shape)) == expected, (shape, sharded.rule("kernel", leaf(*shape)))
small = jl.fully_sharded(at_least=1)
assert small.rule("bias", leaf(8)) == P("data") and small.rule("bias", leaf(7)) == P()
assert small != sharded and small == jl.fully_sharded(at_least=1) and hash(small) == hash(jl.fully_sharded(at_least=1))
assert jl.fully_sharded(devices[:2]).rule("kernel", leaf(1022, 3)) == P("data")
assert "their largest axis, from 1024 numbers on" in sharded.describe()
"""


def test_arrays_are_divided_along_their_largest_axis_that_divides():
    run_on_devices(READY, 8)
