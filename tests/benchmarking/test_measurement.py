"""What follows from a measurement, by hand; and the table it prints."""

import pytest

from jaxloop.benchmarking.measurement import Measurement, Quartiles


@pytest.fixture
def measured():
    """Half a millisecond a call on two H100: 2e11 FLOPs, 1e9 bytes, 64 examples."""
    return Measurement(
        name="step",
        rounds=11,
        calls=32,
        seconds=Quartiles(0.0004, 0.0005, 0.0006),
        dispatch_seconds=Quartiles(9e-6, 1e-5, 1.1e-5),
        latency_seconds=Quartiles(0.0005, 0.00052, 0.0006),
        examples=64,
        flops=2e11,
        bytes=1e9,
        device_kind="NVIDIA H100 80GB HBM3",
        device_count=2,
    )


def test_quartiles_are_interpolated():
    assert Quartiles.of([4.0, 1.0, 2.0, 3.0]) == Quartiles(1.75, 2.5, 3.25)


def test_rates_are_of_the_median(measured):
    assert measured.calls_per_second == pytest.approx(2000)
    assert measured.examples_per_second == pytest.approx(128_000)
    assert measured.flops_per_second == pytest.approx(4e14)
    assert measured.bytes_per_second == pytest.approx(2e12)
    assert measured.intensity == pytest.approx(200)


def test_utilization_is_the_share_of_what_all_devices_could_do(measured):
    assert measured.peak_flops == pytest.approx(2 * 989e12)
    assert measured.utilization == pytest.approx(4e14 / 1978e12)


def test_what_is_not_known_stays_unknown():
    bare = Measurement("f", rounds=1, calls=1, seconds=Quartiles(1.0, 1.0, 1.0), device_kind="cpu", device_count=1)

    assert bare.examples_per_second is None
    assert bare.flops_per_second is None
    assert bare.intensity is None
    assert bare.peak_flops is None
    assert bare.utilization is None


def test_it_prints_a_table_with_a_line_for_each_thing_known(measured):
    assert repr(measured).splitlines() == [
        "Benchmark of step on 2 x NVIDIA H100 80GB HBM3",
        "  seconds per call     500 us [400 us, 600 us]      median and quartiles of 11 rounds of 32 calls",
        "  calls per second     2 k",
        "  examples per second  128 k                        64 in a call",
        "  dispatch             10 us [9 us, 11 us]          until a call comes back; its result is there after 520 us",
        "  FLOP/s               400 T                        200 G FLOPs in a call",
        "  bytes per second     2 T                          1 GB in a call, 200 FLOPs for each",
        "  MFU                  20.2%                        of 1.98 P FLOP/s in bfloat16",
    ]


def test_the_table_says_where_the_peak_of_a_device_is_not_known(measured):
    bare = Measurement(**vars(measured) | {"device_kind": "cpu", "device_count": 1})

    assert repr(bare).splitlines()[-1] == (
        "  MFU                  not known                    the peak of cpu is not known"
    )


def test_without_flops_or_a_device_the_table_is_silent_on_the_share_of_the_peak(measured):
    for unknown in ({"flops": None}, {"device_kind": None, "device_count": 0}):
        assert "MFU" not in repr(Measurement(**vars(measured) | unknown))


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.0, "0 s"), (2e-10, "0.2 ns"), (4.16e-5, "41.6 us"), (0.001, "1 ms"), (1.0, "1 s"), (90.0, "90 s")],
)
def test_amounts_have_three_digits_and_a_prefix(seconds, shown):
    same = Quartiles(seconds, seconds, seconds)
    bare = Measurement("f", rounds=1, calls=1, seconds=Quartiles(1.0, 1.0, 1.0))
    table = repr(Measurement(**vars(bare) | {"dispatch_seconds": same, "latency_seconds": same}))

    assert f"dispatch             {shown} [{shown}, {shown}]" in table
