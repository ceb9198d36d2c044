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
from taskstore.kernels.jit import jit

Bytes = NDArray[np.uint8]
F32 = NDArray[np.float32]
MAX_LEVEL = (1 << 13) - 1  # with an offset and a step of five bits, 24 bits in all
SMALLEST = np.float32(2.0**-126)  # normal float32
UNITS = range(-110, 91)  # so that every step and every product is a normal float32, or zero
DEAD_ZONE = 0.6
MAX_STRETCH = 2.5
LEAST_STRETCH = 0.5  # of what a low-rank part leaves


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
        _scale(points_N, self.steps(), self.columns, self.first)
        return points_N


@dataclass(frozen=True)
class Points:
    """What |q| stands for, in 1/32 steps: `low` for 0 to 7, |q| + offset / 32 from there on."""

    low: Bytes
    offset: int

    def of(self, z: NDArray[Any]) -> F32:
        """Signed points of levels folded by zigzag; 0 gives -0.0, adding which changes no float."""
        points = np.empty(z.shape, np.float32)
        _points(z.reshape(-1), self.low, self.offset, points.reshape(-1))
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
    are stretched, up to `most`, until both together have the projection 1.
    """
    steps_R = np.zeros(-(-(first + tau_N.size) // columns) if tau_N.size else 0, np.float32)
    size_R = np.zeros(steps_R.size)
    _sizes(tau_N, columns, first, np.float32(step), size_R, steps_R)
    z_N, sums, counts = np.empty(tau_N.size, np.uint16), np.zeros(9), np.zeros(9, np.int64)
    rest_N = tau_N if part_N is None else tau_N - part_N
    _quantise(rest_N, steps_R, columns, first, z_N, sums, counts)
    middle = np.append(np.arange(8), 0) + 0.5 - DEAD_ZONE
    means = np.rint(np.where(counts > 0, sums / np.maximum(counts, 1), middle) * 32)
    low = means[:8].clip(0, 255).astype(np.uint8)
    low[0] = 0
    points = Points(low, int(means[8].clip(-128, 127)))
    along_R = np.zeros(steps_R.size)
    if part_N is None:
        _along(tau_N, z_N, columns, first, points.low, points.offset, along_R)
        along_R *= steps_R / 32.0
        stretch_R = np.divide(size_R, along_R, out=np.zeros(steps_R.size), where=along_R > 0)
        stretch_R = stretch_R.clip(0, most)
    else:
        ends = (tau_N, part_N, points.of(z_N), columns, first)
        stretch_R = _stretched(*ends, size_R, steps_R.astype(np.float64), most)
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


@jit
def _stretched(
    tau_N: F32,
    part_N: F32,
    points_N: F32,
    columns: int,
    first: int,
    size_R: NDArray[np.float64],
    steps_R: NDArray[np.float64],
    most: float,
) -> NDArray[np.float64]:
    """What each row of the rest is to be stretched by; 0 where there is none."""
    stretch_R = np.zeros(size_R.size)
    for r in range(size_R.size):
        start, stop = max(0, r * columns - first), min(tau_N.size, (r + 1) * columns - first)
        along = missing = own = 0.0
        for i in range(start, stop):
            tau, point = np.float64(tau_N[i]), np.float64(points_N[i])
            along += tau * point
            own += point * point
            missing += tau * np.float64(part_N[i])
        if own > 0:
            along *= steps_R[r]
            want = (size_R[r] - missing) / along if along > 0 else 1.0
            stretch_R[r] = min(max(want, LEAST_STRETCH), most)
    return stretch_R


@jit
def _points(z_N: NDArray[Any], low: Bytes, offset: int, points_N: F32) -> None:
    for i in range(z_N.size):
        q = (int(z_N[i]) + 1) >> 1
        size = np.float32(int(low[q]) if q < 8 else 32 * q + offset) / np.float32(32)
        points_N[i] = size if q and not z_N[i] & 1 else -size


@jit
def _sizes(
    tau_N: F32,
    columns: int,
    first: int,
    step: np.float32,
    size_R: NDArray[np.float64],
    steps_R: F32,
) -> None:
    """Each row's |tau|^2, and its step for quantising: `step` times its root mean square.

    0 where that has no finite reciprocal; such a row is below every unit.
    """
    for r in range(steps_R.size):
        start, stop = max(0, r * columns - first), min(tau_N.size, (r + 1) * columns - first)
        tau = tau_N[start:stop]
        a = b = c = d = 0.0  # four sums in turn, so that none waits for the one before
        for i in range(0, tau.size - 3, 4):
            a += np.float64(tau[i]) * np.float64(tau[i])
            b += np.float64(tau[i + 1]) * np.float64(tau[i + 1])
            c += np.float64(tau[i + 2]) * np.float64(tau[i + 2])
            d += np.float64(tau[i + 3]) * np.float64(tau[i + 3])
        for i in range(tau.size & ~3, tau.size):
            a += np.float64(tau[i]) * np.float64(tau[i])
        size_R[r] = (a + b) + (c + d)
        size = np.float32(np.sqrt(size_R[r] / tau.size)) * step
        steps_R[r] = size if size >= SMALLEST else np.float32(0)


@jit
def _along(
    tau_N: F32,
    z_N: NDArray[np.uint16],
    columns: int,
    first: int,
    points: Bytes,
    offset: int,
    along_R: NDArray[np.float64],
) -> None:
    """Each row's product with what its integers stand for, in 1/32 steps."""
    table = np.empty(15, np.float64)  # by z, both signs
    for z in range(15):
        table[z] = points[(z + 1) >> 1]
    for r in range(along_R.size):
        start, stop = max(0, r * columns - first), min(tau_N.size, (r + 1) * columns - first)
        a = b = 0.0
        for i in range(start, stop):
            z = z_N[i]
            point = table[z] if z < 15 else np.float64(32 * ((int(z) + 1) >> 1) + offset)
            a, b = b, a + np.float64(abs(tau_N[i])) * point
        along_R[r] = a + b


@jit
def _quantise(
    tau_N: F32,
    steps_R: F32,
    columns: int,
    first: int,
    z_N: NDArray[np.uint16],
    sums: NDArray[np.float64],
    counts: NDArray[np.int64],
) -> None:
    """z per element; sums and counts of |tau| / step per |q|, from 8 on of |tau| / step - |q|.

    Those of every fourth row, where there are many: rows are alike, in steps.
    """
    skip = 4 if tau_N.size > 1 << 16 and steps_R.size >= 64 else 1
    shift, top = np.float32(1 - DEAD_ZONE), np.float32(MAX_LEVEL)
    for r in range(steps_R.size):
        start, stop = max(0, r * columns - first), min(tau_N.size, (r + 1) * columns - first)
        if steps_R[r] == 0:
            z_N[start:stop] = np.uint16(0)
            continue
        share = np.float32(1) / steps_R[r]
        for i in range(start, stop):
            level = np.int16(min(abs(tau_N[i]) * share + shift, top))
            z_N[i] = np.uint16(2 * level - np.int16((tau_N[i] < 0) & (level > 0)))
        if r % skip:
            continue
        for i in range(start, stop):
            q = (int(z_N[i]) + 1) >> 1
            k = min(q, 8)
            sums[k] += np.float64(abs(tau_N[i]) * share) - (np.float64(q) if k == 8 else 0.0)
            counts[k] += 1


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


@jit
def _scale(v_N: F32, steps_R: F32, columns: int, first: int) -> None:
    for r in range(steps_R.size):
        start, stop = max(0, r * columns - first), min(v_N.size, (r + 1) * columns - first)
        for i in range(start, stop):
            v_N[i] *= steps_R[r]
