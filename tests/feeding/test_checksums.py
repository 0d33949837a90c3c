"""Checksums of batches, whole and of a sample."""

import numpy as np

from jaxloop.feeding.checksums import first_batch_mark, sampled


def test_each_byte_of_a_batch_counts() -> None:
    batch = np.zeros((4, 1000), np.float32), np.arange(4)
    changed = batch[0].copy(), batch[1]
    changed[0][3, 998] = 1e-30
    assert first_batch_mark(batch) == first_batch_mark((batch[0].copy(), batch[1].copy()))
    assert first_batch_mark(batch) != first_batch_mark(changed)


def test_a_sample_goes_on_from_the_batch_before() -> None:
    batch = np.arange(100_000, dtype=np.float32)
    assert sampled(batch) != sampled(batch, 1) != sampled(batch + 1, 1)
