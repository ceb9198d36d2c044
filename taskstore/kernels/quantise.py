"""Quantises a vector: small integers, and a step for each row.

Values below DEAD_ZONE steps become 0, each further integer covers one step more. The step of a row
is `step` times its root mean square: small rows matter as much as large ones, and one step for all
rows keeps less accuracy at the same bits.

An integer comes back as the mean of the values that became it. That has the least error, but makes
every row a little too short, which a network notices more than noise. So each row is stretched
until its projection on what was quantised is 1 (docs/fidelity.md; at two bits the divergence falls
to a sixth).

Legend: N = elements, R = rows that a chunk touches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskstore.kernels import symbols as packing
from taskstore.kernels.factored.low_rank import LowRank
from taskstore.native import quantise as loops

Bytes = NDArray[np.uint8]
F32 = NDArray[np.float32]
MAX_LEVEL = (1 << 13) - 1  # with an offset and a step of five bits, 24 bits in all
UNITS = range(-110, 91)  # so that every step and every product is a normal float32, or zero
DEAD_ZONE = 0.6
MAX_STRETCH = 2.5
LEAST_STRETCH = 0.5  # of what a low-rank part leaves
LONGER = 1.2  # than that projection, at most, at steps above 2: of few levels that are not 0


@dataclass(frozen=True)
class Rows:
    """The rows of a chunk and their steps: element i is in row (first + i) div columns.

    codes_R uint8: a row's step is (16 + c mod 16) 2^(c div 16 + unit), or zero where c is.
    """

    columns: int
    first: int
    unit: int
    codes_R: Bytes

    def steps(self) -> F32:
        """float32 (R,)."""
        m, e = self.codes_R & np.uint8(15), self.codes_R >> np.uint8(4)
        exponent = e.astype(np.int32) + self.unit
        steps_R: F32 = np.ldexp((16 + m).astype(np.float32), exponent).astype(np.float32)
        steps_R[self.codes_R == 0] = 0
        return steps_R

    def scaled(self, points_N: F32) -> F32:
        """Multiply points by the steps of their rows, in place, and return them."""
        loops.scale(points_N, self.steps(), self.columns, self.first)
        return points_N


@dataclass(frozen=True)
class Points:
    """What |q| stands for, in 1/32 steps: `low` for 0 to 7, |q| + offset / 32 from there on."""

    low: Bytes
    offset: int

    def of(self, z: NDArray[Any]) -> F32:
        """Signed points of levels folded by zigzag; 0 gives -0.0, adding which changes no float."""
        points = np.empty(z.shape, np.float32)
        loops.points(z.reshape(-1), self.low, self.offset, points.reshape(-1))
        return points


def quantise(
    tau_N: F32,
    columns: int,
    first: int,
    step: float,
    part_N: F32 | None = None,
    most: float = MAX_STRETCH,
) -> tuple[Rows, Points, Any]:
    """Rows, points, and z uint16 (N,): q folded by zigzag.

    Element 0 stands in column `first` of `columns`; `step` in units of each row's root mean square.
    Given a part of tau, only the rest of it is quantised, with the same steps; the rows of the rest
    are stretched, up to `most`, until both together have the projection 1, and a little longer.
    """
    steps_R = np.zeros(-(-(first + tau_N.size) // columns) if tau_N.size else 0, np.float32)
    size_R = np.zeros(steps_R.size)
    loops.sizes(tau_N, columns, first, step, size_R, steps_R)
    z_N, sums, counts = np.empty(tau_N.size, np.uint16), np.zeros(9), np.zeros(9, np.int64)
    rest_N = tau_N if part_N is None else tau_N - part_N
    # Of every fourth row, where there are many: rows are alike, in steps.
    skip = 4 if tau_N.size > 1 << 16 and steps_R.size >= 64 else 1
    loops.quantise(rest_N, steps_R, columns, first, 1 - DEAD_ZONE, skip, z_N, sums, counts)
    middle = np.append(np.arange(8), 0) + 0.5 - DEAD_ZONE
    means = np.rint(np.where(counts > 0, sums / np.maximum(counts, 1), middle) * 32)
    low = means[:8].clip(0, 255).astype(np.uint8)
    low[0] = 0
    points = Points(low, int(means[8].clip(-128, 127)))
    along_R = np.zeros(steps_R.size)
    if part_N is None:
        loops.along(tau_N, z_N, columns, first, points.low, points.offset, along_R)
        along_R *= steps_R / 32.0
        stretch_R = np.divide(size_R, along_R, out=np.zeros(steps_R.size), where=along_R > 0)
        stretch_R = stretch_R.clip(0, most)
    else:
        ends = (tau_N, part_N, points.of(z_N), columns, first, size_R, steps_R.astype(np.float64))
        stretch_R = np.empty(steps_R.size)
        loops.stretched(*ends, LEAST_STRETCH, most, stretch_R)
        stretch_R *= min(max(step / 2, 1.0), LONGER)
    codes_R, unit = _codes(steps_R * stretch_R)
    return Rows(columns, first, unit, codes_R), points, z_N


def _codes(steps_R: NDArray[np.float64]) -> tuple[Bytes, int]:
    """Each row's step as a byte, to a thirty-second at worst, and the unit of all."""
    largest = float(steps_R.max(initial=0))
    if largest <= 0:
        return np.zeros(steps_R.size, np.uint8), 0
    unit = min(max(math.frexp(largest)[1] - 5 - 14, UNITS[0]), UNITS[-1])
    mantissa, exponent = np.frexp(np.ldexp(steps_R, -unit))  # mantissa from 1/2 on
    m, e = np.rint(mantissa * 32).astype(np.int64), exponent.astype(np.int64) - 5
    codes = (e << 4) + m - 16  # m = 32 is m = 16 of the next e
    return np.where(steps_R > 0, codes.clip(1, 255), 0).astype(np.uint8), unit


@dataclass(frozen=True)
class Quantised:
    """A quantised chunk as it is kept in memory: packed symbols, and what does not fit them.

    where_E, z_E: elements that are escapes, in order, and their levels, folded.
    low_rank: a part that is added, of the rows that the chunk touches.
    """

    n: int
    radix: int
    symbols: Bytes
    rows: Rows
    points: Points
    where_E: NDArray[np.uint32]
    z_E: NDArray[np.uint16]
    low_rank: LowRank | None = None

    def table(self) -> F32:
        """What a byte of symbols stands for, in steps, float32 (256, symbols in a byte)."""
        digits = packing.digits(self.radix)
        return np.where(digits < self.radix - 1, self.points.of(digits), np.float32(-0.0))

    def values(self) -> F32:
        """v, float32 (n,)."""
        v_N = packing.look_up(self.symbols, self.table(), self.n)
        v_N[self.where_E] = self.points.of(self.z_E)
        v_N = self.rows.scaled(v_N)
        if self.low_rank is not None:
            self.low_rank.add(self.rows.first, v_N)
        return v_N
