"""Finds the low-rank part of a matrix: factors of whole numbers, whose noise is that of its rest.

Rows are taken relative to about their root mean square, u. With noise D per element of u a
component of singular value S is kept where S^2 > KEPT (m + n) D, since it costs about m + n small
numbers, and where it is above those of noise as large as what is left: their squares reach twice
(m + n) times its mean square. Steps are STEP sqrt((m + n) D) / S. Where both parts together would
be shorter than the matrix, its projection p below 1, factors are made longer by p^-STRETCH, at most
MOST. Components are found in float64 by the Gram matrix of a short side, else by subspace
iteration. What is stored is whole numbers: a machine may choose others than another does, but all
read them alike.

Legend: M = rows, N = columns of the matrix, R = rank.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskstore.format.tiers.rest import stretch_of
from taskstore.kernels.factored.low_rank import (
    LARGEST,
    MAX_CODE,
    MAX_RANK,
    MAX_SHIFT,
    LowRank,
    scales_of,
)
from taskstore.kernels.quantise import DEAD_ZONE, quantise
from taskstore.packing.low_rank.importance import Importance

F32 = NDArray[np.float32]
KEPT, STEP, NOISE = 4.0, 2.5, 2.1
STRETCH, MOST, LEAST = 0.35, 2.0, 1.01
EMPTY = 4.0  # a step from which on hardly anything is left in the rest; steps tell the rank alone
FINEST, COARSEST = 0.02, 1.6  # steps, of unit root mean square
RANK = 48  # of a matrix, at most
SHORT = 512  # of a side whose Gram matrix is taken
MORE, ROUNDS = 8, 4  # of the subspace iteration
SOME = 1 << 16  # elements that tell the noise of a rest


@dataclass(frozen=True)
class Components:
    """Rows' codes and their unit; u = U S V^T and more.

    some_K, x_KN: rows of the matrix that stand for all. weighed_R, energy: sizes and |u|^2 where
    columns are weighed (importance.py), in whose order the components are; else as they are.
    """

    shape: tuple[int, int]
    codes_M: NDArray[np.uint8]
    unit: int
    some_K: NDArray[np.intp]
    x_KN: F32
    left_MR: F32
    sizes_R: F32
    right_NR: F32
    weighed_R: F32
    energy: float

    def noise(self, step: float) -> float:
        """The mean squared error of a rest alone."""
        scales_K1 = scales_of(self.codes_M[self.some_K], self.unit)[:, None]
        a = np.abs(relative(self.x_KN, scales_K1).reshape(-1)) / np.float32(step)
        q = np.floor(a + (1 - DEAD_ZONE)).astype(np.int64)
        middle = np.bincount(q, a) / np.maximum(np.bincount(q), 1)
        middle[0] = 0
        return float(((a - middle[q]) ** 2).mean()) * step * step

    def projection(self, low_rank: LowRank, step: float) -> float:
        """How much of u a part and its rest have together, <u, v> / |u|^2."""
        x_N, columns = self.x_KN.reshape(-1), self.shape[1]
        part_N = np.zeros_like(x_N)
        low_rank.some(self.some_K).add(0, part_N)
        rows, points, z_N = quantise(x_N, columns, 0, step, part_N, stretch_of(step))
        v_N = rows.scaled(points.of(z_N)) + part_N
        along, size = (np.einsum("i,i->", x_N, y_N, dtype=np.float64) for y_N in (v_N, x_N))
        return float(along / max(size, 1e-30))


def components(x_MN: F32, rank: int = RANK, importance: Importance | None = None) -> Components:
    rms_M = np.sqrt(np.einsum("ij,ij->i", x_MN, x_MN, dtype=np.float64) / x_MN.shape[1])
    codes_M, unit = _codes(rms_M)
    u_MN = relative(x_MN, scales_of(codes_M, unit)[:, None])
    if importance is not None:
        u_MN = importance.weighed(u_MN)
    energy = float(np.einsum("ij,ij->", u_MN, u_MN, dtype=np.float64))
    some_K = np.arange(0, len(x_MN), -(-x_MN.size // SOME))
    known = x_MN.shape, codes_M, unit, some_K, x_MN[some_K]
    left_MR, weighed_R, right_NR = svd(u_MN, min(rank, *x_MN.shape))
    sizes_R = weighed_R
    if importance is not None:
        right_NR = importance.plain(right_NR)
        lengths_R = np.linalg.norm(right_NR, axis=0)
        right_NR, sizes_R = right_NR / np.maximum(lengths_R, 1e-12), weighed_R * lengths_R
    return Components(*known, left_MR, sizes_R, right_NR, weighed_R, energy)


def relative(x_MN: F32, scales_M1: F32) -> F32:
    """Divide rows by their scales; rows of scale 0 become 0."""
    return np.divide(x_MN, scales_M1, out=np.zeros_like(x_MN), where=scales_M1 > 0)


def _codes(rms_M: NDArray[np.float64]) -> tuple[NDArray[np.uint8], int]:
    """Half octaves: codes of the rows, and their unit."""
    halves = np.full(rms_M.size, -(1 << 20))
    np.rint(2 * np.log2(rms_M, where=rms_M > 1e-30, out=np.full(rms_M.size, -1e6)), out=halves,
            casting="unsafe")  # fmt: skip
    most = int(halves.max(initial=-(1 << 20)))
    if most < -250:
        return np.zeros(rms_M.size, np.uint8), 0
    unit = math.floor((most - MAX_CODE + 1) / 2) - 4
    codes = halves - 2 * unit - 8 + 1
    return np.where(codes > 0, codes, 0).clip(0, MAX_CODE).astype(np.uint8), unit


def svd(u_MN: Any, rank: int) -> tuple[Any, Any, Any]:
    """The largest components, of its dtype: left (M, R), sizes (R,), right (N, R)."""
    m, n = u_MN.shape
    if m < n:
        right, sizes, left = svd(np.ascontiguousarray(u_MN.T), rank)
        return left, sizes, right
    if n <= SHORT:
        gram = (u_MN.T @ u_MN).astype(np.float64)
    else:
        random = np.random.Generator(np.random.Philox(0))
        basis = random.standard_normal((n, rank + MORE)).astype(u_MN.dtype)
        for _ in range(ROUNDS):
            basis, _ = np.linalg.qr(u_MN.T @ (u_MN @ basis))
        small = u_MN @ basis
        gram = (small.T @ small).astype(np.float64)
    values, vectors = np.linalg.eigh(gram)
    sizes = np.sqrt(values[::-1][:rank].clip(0)).astype(u_MN.dtype)
    right = vectors[:, ::-1][:, :rank].astype(u_MN.dtype)
    if n > SHORT:
        right = basis @ right
    return u_MN @ right / np.maximum(sizes, u_MN.dtype.type(1e-12)), sizes, right


def factored(parts: Components, step: float) -> LowRank:
    """The factors of a matrix whose rest has this step."""
    found = _factored(parts, step, 1.0)
    if not found.rank:
        return found
    short = max(parts.projection(found, step), 1e-3)
    gain = min(short**-STRETCH, MOST)
    return found if gain < LEAST else _factored(parts, step, gain)


def _factored(parts: Components, step: float, stretch: float) -> LowRank:
    (m, n), live = parts.shape, int(np.count_nonzero(parts.codes_M))
    d = parts.noise(step) * max(1.0, step / EMPTY) ** 2
    squares: NDArray[np.float64] = parts.weighed_R.astype(np.float64) ** 2
    remains = parts.energy - np.append(0, squares[:-1].cumsum())  # before each
    kept = squares > (live + n) * np.maximum(KEPT * d, NOISE * remains / max(1, live * n))
    rank = min(int(np.append(kept, False).argmin()), min(live, n) // 2, MAX_RANK)
    left: F32 = parts.left_MR[:, :rank] * math.sqrt(m)
    right = parts.right_NR[:, :rank] * math.sqrt(n)
    sizes_R = np.maximum(parts.weighed_R[:rank], np.float32(1e-12))
    want: F32 = STEP * np.sqrt(np.float32(d)) / sizes_R
    for _ in range(20):
        fa, fb = want * math.sqrt(2 * m), want * math.sqrt(2 * n)
        exponents, a, b = _whole(parts, stretch, left, right, fa, fb)
        if not rank:
            break
        low = int(exponents.min())
        shifts = exponents - low
        made = LowRank(n, parts.unit + low, parts.codes_M, shifts.clip(0, 15).astype(np.uint8),
                       a.T.astype(np.int8), b.T.astype(np.int8))  # fmt: skip
        if shifts.max() <= MAX_SHIFT and made.largest() < LARGEST:
            return made
        want = np.maximum(want, np.float32(1.2) * want.min())
    zero = np.zeros((0, m), np.int8), np.zeros((0, n), np.int8)
    return LowRank(n, parts.unit, parts.codes_M, np.zeros(0, np.uint8), *zero)


def _whole(
    parts: Components, stretch: float, left: F32, right: F32, fa: F32, fb: F32
) -> tuple[NDArray[np.int64], F32, F32]:
    """Round the factors so that each component is a power of two times a product of integers."""
    fa = np.maximum(fa.clip(FINEST, COARSEST), np.abs(left).max(0, initial=0) / 127)
    fb = np.maximum(fb.clip(FINEST, COARSEST), np.abs(right).max(0, initial=0) / 127)
    size = stretch * parts.sizes_R[: fa.size] / math.sqrt(left.shape[0] * right.shape[0])
    exponents = np.zeros(fa.size, np.int64)
    for tries in range(4):
        a, b = np.rint(left / fa), np.rint(right / fb)
        gain = size * np.einsum("ij,ij->j", left, a) * np.einsum("ij,ij->j", right, b)
        gain /= np.maximum(np.einsum("ij,ij->j", a, a) * np.einsum("ij,ij->j", b, b), 1e-12)
        if not tries:
            exponents = np.rint(np.log2(np.maximum(gain, 1e-30))).astype(np.int64)
        ratio = np.sqrt(np.exp2(exponents) / np.maximum(gain, 1e-30)).astype(np.float32)
        fa, fb = fa * ratio, fb * ratio
        fa = np.maximum(fa, np.abs(left).max(0, initial=0) / 127)
        fb = np.maximum(fb, np.abs(right).max(0, initial=0) / 127)
    return exponents, np.rint(left / fa).clip(-127, 127), np.rint(right / fb).clip(-127, 127)
