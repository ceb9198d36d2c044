"""The product has the same bits in every order and on every kernel."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from taskstore.kernels import add_quantised
from taskstore.kernels.device_ops import TorchVectors
from taskstore.kernels.factored.low_rank import LARGEST, MAX_CODE, LowRank, scales_of
from tests.kernels.test_add_quantised import DTYPES, agree, vector, weights


def low_rank(
    random: np.random.Generator, rows: int, columns: int, rank: int, unit: int = 0
) -> LowRank:
    """Any factors that a reader takes."""
    while True:
        found = LowRank(
            columns,
            unit,
            random.integers(0, MAX_CODE + 1, rows).astype(np.uint8),
            random.integers(0, 4, rank).astype(np.uint8),
            random.integers(-40, 41, (rank, rows)).astype(np.int8),
            random.integers(-40, 41, (rank, columns)).astype(np.int8),
        )
        if found.largest() < LARGEST:
            return found


@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 40),
    st.sampled_from([1, 3, 70, 600, 1024]),
    st.integers(1, 17),
    st.sampled_from(list(DTYPES)),
    st.integers(0, 3000),
)
def test_all_kernels_agree(
    seed: int, rows: int, columns: int, rank: int, dtype: str, start: int
) -> None:
    """A chunk from the middle of a matrix: the compiled loop, float32 values, and torch."""
    random = np.random.default_rng(seed)
    n = rows * columns
    start %= n
    part = low_rank(random, rows, columns, rank, unit=-40).rows(start, n - start)
    chunk = vector(random, n - start, 4, columns, start % columns, -30, 0.02)
    agree(replace(chunk, low_rank=part), weights(random, n - start, dtype), dtype)


def test_it_is_the_product() -> None:
    random = np.random.default_rng(3)
    part = low_rank(random, 50, 70, 9)
    left, right = part.left_RM.astype(np.int64), part.right_RN.astype(np.int64)
    whole = np.einsum("r,rm,rn->mn", 1 << part.shifts_R.astype(np.int64), left, right)
    assert np.abs(whole).max() <= part.largest() < LARGEST
    expected = whole * part.scales().astype(np.float64)[:, None]
    found = np.zeros(50 * 70, np.float32)
    part.add(0, found)
    assert (found.reshape(50, 70) == expected).all()  # no rounding anywhere
    for start, n in ((0, 70), (35, 71), (69, 1), (1000, 900)):
        some = np.zeros(n, np.float32)
        part.rows(start, n).add(start % 70, some)
        assert (some == found[start : start + n]).all()


def test_scales() -> None:
    codes = np.array([0, 1, 2, 3, 4, 63], np.uint8)
    assert scales_of(codes, -3).tolist() == [0, 2, 2.875, 4, 5.75, 2.0**32]


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
def test_faster_modes_of_a_device_change_nothing(precision: str) -> None:
    """Torch may take bfloat16 for products then, in which the factors are exact."""
    random = np.random.default_rng(5)
    chunk = replace(vector(random, 6400, 4, 64, 0, -30, 0), low_rank=low_rank(random, 100, 64, 12))
    before = torch.get_float32_matmul_precision()
    ways = TorchVectors(torch.device("cpu"))
    try:
        torch.set_float32_matmul_precision(precision)
        found = ways.place(chunk, torch.device("cpu")).values(torch.device("cpu"))
    finally:
        torch.set_float32_matmul_precision(before)
    assert (found.numpy() == chunk.values()).all()


def test_a_shared_factor_is_placed_once() -> None:
    random = np.random.default_rng(6)
    part, ways, cpu = (
        low_rank(random, 100, 64, 5),
        TorchVectors(torch.device("cpu")),
        torch.device("cpu"),
    )
    chunks = [
        replace(vector(random, 640, 4, 64, 0, 0, 0), low_rank=part.rows(s, 640)) for s in (0, 640)
    ]
    placed = [ways.place(chunk, cpu) for chunk in chunks]
    assert placed[0].low_rank and placed[1].low_rank
    assert placed[0].low_rank[1].data_ptr() == placed[1].low_rank[1].data_ptr()


def test_a_negative_zero_below_becomes_a_zero() -> None:
    """As SPEC.md has it, where a tensor has factors; without them it stays."""
    random = np.random.default_rng(7)
    chunk = vector(random, 64, 4, 64, 0, 0, 0)
    chunk = replace(
        chunk, symbols=np.zeros_like(chunk.symbols), where_E=chunk.where_E[:0], z_E=chunk.z_E[:0]
    )
    part = replace(low_rank(random, 1, 64, 2), left_RM=np.zeros((2, 1), np.int8))
    below = np.full(64, 0x8000, np.uint16)
    assert (agree(replace(chunk, low_rank=part), below, "BF16") == 0).all()
    w = np.empty_like(below)
    add_quantised.add(chunk, below, w, "BF16")
    assert (w == 0x8000).all()
