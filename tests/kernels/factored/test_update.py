"""Updates of low rank: one binary64 addition over exact sums, whatever run of elements is asked."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from numpy.typing import NDArray

from taskstore.kernels import floats
from taskstore.kernels.factored.update import Update, no_update
from taskstore.native import levels
from tests.support.native import at_level

ROWS, COLUMNS = 7, 12
MANTISSAS = {"BF16": 7, "F16": 10, "F32": 23}


def update(dtype: str, rank: int = 3, seed: int = 0, largest: int = 3000) -> Update:
    draw = np.random.default_rng(seed)
    left, right = (
        draw.integers(-largest, largest + 1, (rank, size)).astype(np.int16)
        for size in (ROWS, COLUMNS)
    )
    codes = draw.integers(0, 4, ROWS).astype(np.uint8)
    shifts = np.arange(rank, dtype=np.uint8)
    return Update(COLUMNS, -32, MANTISSAS[dtype], codes, shifts, left, right)


def weights(dtype: str, seed: int = 1) -> NDArray[np.unsignedinteger]:
    values = np.random.default_rng(seed).standard_normal(ROWS * COLUMNS).astype(np.float32)
    return floats.from_float32(values, dtype)


def by_hand(found: Update, w0_N: NDArray[np.unsignedinteger], dtype: str) -> list[int]:
    """Return bits by whole numbers; a binary64 sum is what Python's floats make."""
    out = []
    for n, w0 in enumerate(floats.to_float32(w0_N, dtype).tolist()):
        i, j = divmod(n, COLUMNS)
        t = sum(
            int(found.left_RM[r, i]) * int(found.right_RN[r, j]) << int(found.shifts_R[r])
            for r in range(found.rank)
        )
        x = w0 + float(Fraction(t) * Fraction(2) ** (int(found.codes_M[i]) + found.unit))
        out.append(int(floats.from_float32(np.array([x]).astype(np.float32), dtype)[0]))
    return out


@pytest.mark.parametrize("dtype", MANTISSAS)
def test_sums_are_those_of_whole_numbers(dtype: str) -> None:
    found, w0_N = update(dtype), weights(dtype)
    expected = by_hand(found, w0_N, dtype)
    assert found.predict(0, w0_N).tolist() == expected
    assert expected != w0_N.tolist()
    for start in range(0, w0_N.size, 5):
        for stop in range(start + 1, w0_N.size + 1):
            assert found.predict(start, w0_N[start:stop]).tolist() == expected[start:stop]


@pytest.mark.parametrize("level", levels.available())
@pytest.mark.parametrize("dtype", ["BF16", "F16"])
def test_every_weight_of_two_bytes(dtype: str, level: str) -> None:
    """Subnormal ones, sums at the borders of the dtype, ties, at each level of the processor."""
    w0_N = np.arange(1 << 16, dtype=np.uint16)
    values_N = floats.to_float32(w0_N, dtype)
    for left, unit in ((0, 0), (1, -25), (1, -24), (3, -134), (16, 0), (32767, 113)):
        factors = (np.full((1, 1 << 8), v, np.int16) for v in (left, 1))
        none = np.zeros(1, np.uint8)
        found = Update(1 << 8, unit, MANTISSAS[dtype], np.zeros(1 << 8, np.uint8), none, *factors)
        with np.errstate(over="ignore", invalid="ignore"):
            x_N = (values_N.astype(np.float64) + left * 2.0**unit).astype(np.float32)
            p_N = floats.from_float32(x_N, dtype)
        expected_N = np.where(np.isfinite(floats.to_float32(p_N, dtype)), p_N, w0_N)
        with at_level(level):
            assert np.array_equal(found.predict(0, w0_N), expected_N)


def test_the_bound_is_above_every_sum() -> None:
    found = update("F32", rank=5)
    shifts = (1 << found.shifts_R.astype(np.int64))[:, None]
    t = found.left_RM.astype(np.int64).T @ (found.right_RN.astype(np.int64) * shifts)
    assert np.abs(t).max() <= found.largest()
    assert no_update(7).largest() == 0


@pytest.mark.parametrize("dtype", MANTISSAS)
def test_what_is_not_finite_stays(dtype: str) -> None:
    """Infinities, NaN of any bits, and sums beyond the dtype's largest number."""
    found, exponent = update(dtype, largest=30000), floats.EXPONENT[dtype]
    w0_N = np.full(ROWS * COLUMNS, exponent, exponent.dtype)
    w0_N[1::2] += 1
    assert np.array_equal(found.predict(0, w0_N), w0_N)
    w0_N[:] = exponent - 1
    far = Update(COLUMNS, 60, found.mantissa, *(getattr(found, n) for n in FIELDS))
    assert np.array_equal(far.predict(0, w0_N), w0_N)


FIELDS = ("codes_M", "shifts_R", "left_RM", "right_RN")


def test_no_zero_is_negative() -> None:
    """-0 and an update of +0 are +0, also where all products are negative zeros."""
    found = update("BF16")
    found.left_RM[:] = 0
    found.right_RN[:] = -1
    minus = np.full(ROWS * COLUMNS, 0x8000, np.uint16)
    assert not found.predict(0, minus).any()
