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

from taskstore.native import updates as loops

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
        """Add elements [first, first + N) to as many weights, bits of the dtype, rounded to it.

        Where the sum is not finite, the weight stays.
        """
        row, at = divmod(first, self.columns)
        span, predicted_N = slice(row, -(-(first + w0_N.size) // self.columns)), np.empty_like(w0_N)
        left_RK = np.ascontiguousarray(self.left_RM[:, span])
        scales_K = np.exp2(self.codes_M[span].astype(np.float64) + self.unit)
        ends = np.ascontiguousarray(w0_N), predicted_N
        loop: Any = getattr(loops, f"predict_{DTYPES[self.mantissa].lower()}")
        loop(left_RK, scales_K, self._shifted, at, *ends)
        return predicted_N

    @cached_property
    def _shifted(self) -> F64:
        """The factors of the columns, by their shifts, float64 (R, N)."""
        shifts_R = self.shifts_R.astype(np.int32)
        return np.ldexp(self.right_RN.astype(np.float64, order="C"), shifts_R[:, None])


def no_update(mantissa: int) -> Update:
    """Return one that changes nothing, of any matrix."""
    none = np.zeros(0, np.uint8)
    return Update(0, 0, mantissa, none, none, *(np.zeros((0, 0), np.int16),) * 2)
