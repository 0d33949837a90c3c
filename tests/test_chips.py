"""Facts about chips, by the names that JAX gives devices."""

import pytest

from jaxloop.chips import memory_of, peak_flops


@pytest.mark.parametrize(
    ("kind", "teraflops", "gigabytes"),
    [
        ("TPU v3", 61.5, 16 * 1.073741824),
        ("TPU v5 lite", 197, 16 * 1.073741824),
        ("TPU v5p", 459, 95 * 1.073741824),
        ("TPU v6 lite", 918, 32 * 1.073741824),
        ("NVIDIA A100-SXM4-80GB", 312, 80),
        ("NVIDIA A100-SXM4-40GB", 312, 40),
        ("NVIDIA H100 80GB HBM3", 989, 80),
        ("NVIDIA H100 PCIe", 756, 80),
        ("NVIDIA H200", 989, 141),
        ("Tesla T4", 65, 16),
    ],
)
def test_flops_and_memory_are_those_of_the_data_sheet(kind, teraflops, gigabytes):
    assert peak_flops(kind) == teraflops * 1e12
    assert memory_of(kind) == pytest.approx(gigabytes * 1e9)


@pytest.mark.parametrize("kind", ["cpu", "NVIDIA GeForce RTX 4090", "TPU v99"])
def test_of_another_device_nothing_is_known(kind):
    assert peak_flops(kind) is None
    assert memory_of(kind) is None
