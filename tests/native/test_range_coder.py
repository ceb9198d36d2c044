"""Numbers come back, take about their entropy, and noise decodes to something or is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskstore.format.codecs.factored import ROOM
from taskstore.native import range_coder

LARGE = st.sampled_from([0, 1, 2, 3, 4, 5, 6, 7, 8, 127, 8190]) | st.integers(0, 8190)


@given(st.integers(0, 2**32), st.lists(LARGE, max_size=80), st.sampled_from([1, 9, 1 << 12]))
def test_few_levels_come_back(seed: int, sizes: list[int], apart: int) -> None:
    random = np.random.default_rng(seed)
    where_E = np.cumsum(random.integers(1, apart + 1, len(sizes))).astype(np.uint32)
    z_E = (2 * (np.array(sizes, np.int64) + 1) - random.integers(0, 2, len(sizes))).astype(
        np.uint16
    )
    out = np.empty(12 * len(sizes) + ROOM, np.uint8)
    data = out[: range_coder.put_few(where_E, z_E, out)].copy()
    found = np.empty_like(where_E), np.empty_like(z_E)
    n = int(where_E[-1]) + 1 if sizes else 0
    assert range_coder.few(data, n, *found)
    assert np.array_equal(found[0], where_E) and np.array_equal(found[1], z_E)
    assert not sizes or not range_coder.few(data, n - 1, *found)


def test_few_levels_take_their_entropy() -> None:
    random = np.random.default_rng(1)
    n, share = 1 << 16, 0.02
    where_E = np.flatnonzero(random.random(n) < share).astype(np.uint32)
    z_E = random.integers(1, 3, where_E.size).astype(np.uint16)
    out = np.empty(12 * where_E.size + ROOM, np.uint8)
    p = where_E.size / n
    entropy = where_E.size - n * (p * np.log2(p) + (1 - p) * np.log2(1 - p))
    assert 8 * range_coder.put_few(where_E, z_E, out) < 1.02 * entropy + 64


@given(st.integers(0, 2**32), st.integers(0, 6), st.integers(1, 40), st.integers(1, 40))
def test_factors_come_back(seed: int, rank: int, rows: int, columns: int) -> None:
    random = np.random.default_rng(seed)
    scales = random.integers(0, 64, rows).astype(np.uint8)
    heads = random.integers(0, 16, (rank, 3)).astype(np.uint8)
    left = random.integers(-127, 128, (rank, rows)).astype(np.int8)
    right = random.integers(-127, 128, (rank, columns)).astype(np.int8)
    out = np.empty(3 * (rows + rank * (rows + columns + 2)) + ROOM, np.uint8)
    data = out[: range_coder.put_factors(scales, heads, left, right, out)].copy()
    found = np.empty_like(scales), np.empty_like(heads), np.empty_like(left), np.empty_like(right)
    assert range_coder.factors(data, *found)
    for one, other in zip(found, (scales, heads, left, right), strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize("size", [0, 1, 3, 100])
def test_noise_ends(size: int) -> None:
    """Whatever comes, as many numbers are read as were asked for, or it is refused."""
    for seed in range(20):
        data = np.random.default_rng(seed).integers(0, 256, size, np.uint8)
        where_E, z_E = np.zeros(50, np.uint32), np.zeros(50, np.uint16)
        if range_coder.few(data, 1000, where_E, z_E):
            assert (np.diff(where_E.astype(int)) > 0).all() and int(where_E[-1]) < 1000
        scales, heads = np.empty(9, np.uint8), np.zeros((3, 3), np.uint8)
        range_coder.factors(
            data, scales, heads, np.empty((3, 9), np.int8), np.empty((3, 7), np.int8)
        )
        assert int(heads.max()) < 16


def test_one_stream_by_hand() -> None:
    """Two equal shares of the range, one bit: the first byte is that of SPEC.md's arithmetic."""
    where_E, z_E = np.array([0], np.uint32), np.array([1], np.uint16)
    out = np.zeros(99, np.uint8)
    used = range_coder.put_few(where_E, z_E, out)
    part = (2**32 - 1) // 50  # gap 0, then size 0, then the bit 1: the upper half
    low, size = (part // 50) // 2, part // 50 - (part // 50) // 2
    code = int.from_bytes(bytes(out[:used]).ljust(4, b"\0"), "big")
    assert low <= code < low + size
