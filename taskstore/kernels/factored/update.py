"""An update of low rank in whole numbers: what a merged adapter added to a matrix of weights.

Row i, column j of it is 2^(c_i + unit) T with T = sum_r 2^shift_r left_ri right_rj. While the sum
of the largest sizes stays below LARGEST, every partial sum is exact in float64, in any order, with
fused multiplication or without. So every machine finds the same weights.

Legend: M = rows, N = columns of the matrix, or elements of a run of it, R = rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskstore.kernels.floats import EXPONENT, from_float32, to_float32

Bytes = NDArray[np.uint8]
I16 = NDArray[np.int16]
F64 = NDArray[np.float64]
Bits = NDArray[Any]  # weights, uint16 or uint32
LARGEST = 1 << 53
LARGEST_SHIFT = 31
UNITS = range(-300, 101)
DTYPES = {7: "BF16", 10: "F16", 23: "F32"}  # by bits of the mantissa


@dataclass(frozen=True)
class Update:
    """codes_M, shifts_R uint8; left_RM, right_RN int16; `mantissa` has that many bits."""

    columns: int
    unit: int
    mantissa: int
    codes_M: Bytes
    shifts_R: Bytes
    left_RM: I16
    right_RN: I16

    @property
    def rank(self) -> int:
        return len(self.shifts_R)

    def largest(self) -> int:
        """A bound of |T|, of every partial sum, too."""
        left, right = (
            np.abs(f.astype(np.int64)).max(1, initial=0).tolist()
            for f in (self.left_RM, self.right_RN)
        )
        shifts = self.shifts_R.tolist()
        return sum(a * b << s for a, b, s in zip(left, right, shifts, strict=True))

    def predict(self, first: int, w0_N: Bits) -> Bits:
        """Add elements [first, first + N) to as many weights, bits of the dtype, rounded to it."""
        dtype = DTYPES[self.mantissa]
        sums_N = self._sums(first, w0_N.size)
        sums_N += 0.0  # no zero is negative
        with np.errstate(over="ignore", invalid="ignore"):
            sums_N += to_float32(w0_N, dtype)
            p_N = from_float32(sums_N.astype(np.float32), dtype)
        exponent = EXPONENT[dtype]
        return np.where((p_N & exponent) == exponent, w0_N, p_N)

    def _sums(self, first: int, n: int) -> F64:
        """Return elements [first, first + n) of the update, (n,)."""
        sums_N, columns, right_RN = np.empty(n), self.columns, self._right_RN
        (row, at), done = divmod(first, columns), 0
        left_KR = self._left(row, -(-(first + n) // columns))
        row = 0
        if at or n < columns:  # a part of a row
            done = min(columns - at, n)
            np.matmul(left_KR[0], right_RN[:, at : at + done], out=sums_N[:done])
            row = 1
        whole, left_over = divmod(n - done, columns)
        out = sums_N[done : n - left_over].reshape(whole, columns)
        np.matmul(left_KR[row : row + whole], right_RN, out=out)
        if left_over:
            np.matmul(left_KR[-1], right_RN[:, :left_over], out=sums_N[n - left_over :])
        return sums_N

    def _left(self, start: int, stop: int) -> F64:
        """Return the factors of some rows, float64 (K, R), by their scales."""
        scales_K = self.codes_M[start:stop].astype(np.int32) + self.unit
        left_RK = np.ldexp(self.left_RM[:, start:stop].astype(np.float64), scales_K)
        return np.ascontiguousarray(left_RK.T)

    @cached_property
    def _right_RN(self) -> F64:
        """By their shifts."""
        shifts_R = self.shifts_R.astype(np.int32)
        right_RN: F64 = np.ldexp(self.right_RN.astype(np.float64, order="C"), shifts_R[:, None])
        return right_RN


def no_update(mantissa: int) -> Update:
    """Return one that changes nothing, of any matrix."""
    none = np.zeros(0, np.uint8)
    return Update(0, 0, mantissa, none, none, *(np.zeros((0, 0), np.int16),) * 2)
