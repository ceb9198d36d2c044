"""Factors are near what they stand for, exact as whole numbers, and there for any matrix."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from taskstore.format.codecs import factored as codec
from taskstore.kernels.factored.low_rank import LARGEST, MAX_RANK
from taskstore.packing.low_rank import components as found
from taskstore.packing.low_rank.components import components, factored

F32 = NDArray[np.float32]


def matrix(rows: int, columns: int, rank: int, seed: int = 0, noise: float = 0.1) -> F32:
    random = np.random.default_rng(seed)
    left, right = random.standard_normal((rows, rank)), random.standard_normal((rank, columns))
    x = left @ (right / np.sqrt(max(1, rank))) + noise * random.standard_normal((rows, columns))
    made: F32 = (0.001 * x).astype(np.float32)
    return made


def part(x: F32, step: float) -> tuple[F32, int]:
    low_rank = factored(components(x), step)
    assert low_rank.largest() < LARGEST
    assert low_rank.rank <= min(MAX_RANK, *x.shape)
    back = codec.low_rank(codec.lead(low_rank), x.size)
    assert (back is None) == (not low_rank.rank)
    values = np.zeros(x.size, np.float32)
    if back is not None:
        back.add(0, values)
    return values.reshape(x.shape), low_rank.rank


@pytest.mark.parametrize("shape", [(300, 200), (200, 300), (900, 64), (64, 900), (700, 600)])
def test_most_of_a_matrix_of_low_rank_is_in_its_factors(shape: tuple[int, int]) -> None:
    """By Gram matrices of either side, and by subspace iteration."""
    x = matrix(*shape, rank=5, noise=0.02)
    values, rank = part(x, 2.0)
    assert rank == 5
    left = np.square(x - values).sum() / np.square(x).sum()
    assert left < 0.12  # the step is that of a rest of two root mean squares
    finer, _ = part(x, 0.5)
    assert np.square(x - finer).sum() < 0.6 * np.square(x - values).sum()


def test_factors_are_longer_where_a_rest_is_short() -> None:
    x = matrix(200, 300, 3, noise=1.0)
    parts = components(x)
    low_rank = factored(parts, 6.0)
    short = parts.projection(low_rank, 6.0)
    part_N = np.zeros(x.size, np.float32)
    low_rank.add(0, part_N)
    along = float(x.reshape(-1) @ part_N / (part_N @ part_N))
    assert low_rank.rank
    assert along < 0.97  # best of least error would be 1
    assert short < 1


def test_noise_has_no_factors() -> None:
    values, rank = part(matrix(256, 256, 0, noise=1.0), 3.0)
    assert rank == 0
    assert not values.any()


def test_rows_of_very_different_sizes() -> None:
    """Each row is kept relative to its own size."""
    x = matrix(100, 80, 2, noise=0)
    x *= np.geomspace(1e-6, 1e6, 100, dtype=np.float32)[:, None]
    values, _ = part(x, 1.0)
    error = np.square(x - values).sum(1) / np.square(x).sum(1)
    assert (error[60:] < 0.2).all()  # the scales reach over 31 octaves


@given(
    st.integers(1, 12),
    st.integers(1, 70),
    st.sampled_from(["zero", "row", "column", "one", "tiny", "huge", "rank 1"]),
    st.sampled_from([0.3, 2.0, 8.0]),
)
def test_odd_matrices(rows: int, columns: int, kind: str, step: float) -> None:
    x = matrix(rows, columns, 1, noise=0.0 if kind == "rank 1" else 0.3)
    if kind == "zero":
        x[:] = 0
    elif kind == "row":
        x[0] = 0
    elif kind == "column":
        x[:, 0] = 0
    elif kind == "one":
        x[:] = 0
        x[-1, -1] = 1
    elif kind in ("tiny", "huge"):
        x *= np.float32(1e-33 if kind == "tiny" else 1e33)
    values, _ = part(x, step)
    assert np.isfinite(values).all()
    assert np.square(x.astype(float) - values).sum() <= 1.01 * np.square(x.astype(float)).sum()


def test_spikes_do_not_overflow() -> None:
    """One large element in every row: factors' numbers would not fit a byte with these steps."""
    x = matrix(400, 300, 3)
    x[:, 7] = 1.0
    x[11] *= 50
    values, rank = part(x, 1.0)
    assert rank
    assert np.square(x - values).sum() < 0.1 * np.square(x).sum()


def test_the_same_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(found, "SHORT", 64)
    x = matrix(300, 200, 8)
    one, other = (codec.lead(factored(components(x), 1.5)) for _ in range(2))
    assert all(map(np.array_equal, one, other))
