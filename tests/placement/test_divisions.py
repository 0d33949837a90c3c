"""Specifications against a mesh of 2 x 4, which needs no devices for that."""

import pytest
from jax.sharding import AbstractMesh, PartitionSpec

from jaxloop.placement.divisions import axes_of, check_axes, check_divides, parts_of, said

MESH = AbstractMesh((2, 4), ("data", "model"))


@pytest.mark.parametrize(
    ("entry", "axes", "parts", "words"),
    [
        (None, (), 1, "no axis"),
        (PartitionSpec.UNCONSTRAINED, (), 1, "no axis"),
        ("data", ("data",), 2, "data"),
        (("data",), ("data",), 2, "data"),
        (("data", "model"), ("data", "model"), 8, "data and model"),
        ((), (), 1, "no axis"),
    ],
)
def test_an_entry_is_the_product_of_its_axes(entry, axes, parts, words):
    assert axes_of(entry) == axes
    assert parts_of(entry, MESH) == parts
    assert said(entry) == words


@pytest.mark.parametrize(
    "spec",
    [
        PartitionSpec(),
        PartitionSpec(None, "model"),
        PartitionSpec(("data", "model")),
        PartitionSpec("model", None, "data"),
        PartitionSpec(PartitionSpec.UNCONSTRAINED, "data"),
    ],
)
def test_axes_of_the_mesh_may_stand_anywhere_once(spec):
    check_axes("here", spec, MESH)


@pytest.mark.parametrize("spec", ["data", ("data",), None])
def test_what_is_no_specification_is_refused(spec):
    with pytest.raises(TypeError, match=r"^here: expected a jax\.sharding\.PartitionSpec, got "):
        check_axes("here", spec, MESH)


def test_an_axis_that_the_mesh_does_not_have_is_refused_with_those_that_it_has_and_the_fix():
    with pytest.raises(
        ValueError,
        match=r"^here: .*\('data', 'pipe'\) names the axis 'pipe', but the mesh has 'data', 'model'\. Rename it\.$",
    ):
        check_axes("here", PartitionSpec("data", "pipe"), MESH, fix="Rename it")


def test_an_axis_that_is_named_twice_is_refused():
    for spec in (PartitionSpec("data", "data"), PartitionSpec("data", ("model", "data"))):
        with pytest.raises(ValueError, match=r"names the axis 'data' twice\. Divide one axis of the array by it\."):
            check_axes("here", spec, MESH)


@pytest.mark.parametrize(
    ("spec", "shape"),
    [
        (PartitionSpec(), (3,)),
        (PartitionSpec(), ()),
        (PartitionSpec(None, "model"), (3, 4)),
        (PartitionSpec("data"), (2, 3, 5)),
        (PartitionSpec(("data", "model")), (16,)),
        (PartitionSpec("model"), (0, 3)),
    ],
)
def test_an_array_divides_whose_axes_are_multiples(spec, shape):
    check_divides("here", spec, shape, MESH)


def test_an_axis_that_is_no_multiple_is_refused_with_the_sum():
    with pytest.raises(
        ValueError,
        match=r"axis 1 of \[4, 10\] is divided into 4, but 10 = 4 x 2 \+ 2\. Divide another axis, or none\.",
    ):
        check_divides("here", PartitionSpec("data", "model"), (4, 10), MESH)
    with pytest.raises(ValueError, match=r"axis 0 of \[12\] is divided into 8, but 12 = 8 x 1 \+ 4"):
        check_divides("here", PartitionSpec(("data", "model")), (12,), MESH)


def test_more_entries_than_axes_are_refused():
    with pytest.raises(ValueError, match=r"^here: .* has 2 entries for an array of shape \[8\]\.$"):
        check_divides("here", PartitionSpec(None, "data"), (8,), MESH)
