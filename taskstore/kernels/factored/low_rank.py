"""A low-rank part in whole numbers: a product that has the same bits on every machine.

Row i, column j of the part is scale_i T with T = sum_r 2^shift_r left_ri right_rj. While the sum of
the largest sizes stays below LARGEST, every partial sum is exact in float32, in any order, with
fused multiplication or without, in bfloat16 factors too; so is the product with a scale of five
bits.

Legend: M = rows, N = columns of the matrix, R = rank.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from taskstore.native import low_rank as loops

Bytes = NDArray[np.uint8]
F32 = NDArray[np.float32]
I8 = NDArray[np.int8]
LARGEST = 1 << 19
MAX_RANK, MAX_SHIFT, MAX_CODE = 64, 15, 63
UNITS = range(-110, 61)


@dataclass(frozen=True)
class LowRank:
    """codes_M uint8: a row's scale is 16 or 23 times 2^((c - 1) div 2 + unit), or 0 where c is.

    left_RM, right_RN int8; shifts_R uint8.
    """

    columns: int
    unit: int
    codes_M: Bytes
    shifts_R: Bytes
    left_RM: I8
    right_RN: I8

    @property
    def rank(self) -> int:
        return len(self.shifts_R)

    def largest(self) -> int:
        """A bound of |T|, of every partial sum, too."""
        sizes = [
            np.abs(f.astype(np.int64)).max(1, initial=0) for f in (self.left_RM, self.right_RN)
        ]
        return int((sizes[0] * sizes[1] << self.shifts_R.astype(np.int64)).sum())

    def scales(self) -> F32:
        """float32 (M,)."""
        return scales_of(self.codes_M, self.unit)

    def rows(self, first: int, n: int) -> LowRank:
        """The rows that elements [first, first + n) of the matrix touch."""
        span = slice(first // self.columns, -(-(first + n) // self.columns))
        codes_M, left_RM = self.codes_M[span], self.left_RM[:, span]
        return LowRank(self.columns, self.unit, codes_M, self.shifts_R, left_RM, self.right_RN)

    def some(self, rows: NDArray[np.intp]) -> LowRank:
        """Only those rows."""
        codes_K, left_RK = self.codes_M[rows], self.left_RM[:, rows]
        return LowRank(self.columns, self.unit, codes_K, self.shifts_R, left_RK, self.right_RN)

    def add(self, first: int, values_N: F32) -> None:
        """Add the elements from `first` on to as many values, in place."""
        factors = (self.left_RM, self.right_RN, self.shifts_R, self.scales())
        loops.add(*factors, first, values_N)


NONE = LowRank(
    1, 0, np.zeros(1, np.uint8), np.zeros(0, np.uint8), *(np.zeros((0, 1), np.int8),) * 2
)


def scales_of(codes_M: Bytes, unit: int) -> F32:
    """What codes of rows stand for, float32 (M,)."""
    exponents = (codes_M.astype(np.int32) - 1 >> 1) + unit
    mantissas = np.where(codes_M & 1, np.float32(16), np.float32(23))
    scales_M: F32 = np.ldexp(mantissas, exponents).astype(np.float32)
    scales_M[codes_M == 0] = 0
    return scales_M
