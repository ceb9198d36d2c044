"""Adds up the inner products of vectors, and the four sums that say how near one is to another.

Legend: S = vectors, N = their elements.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskstore.kernels.floats import to_float32
from taskstore.kernels.jit import jit, overload, reordered

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
U = NDArray[Any]
RUN = 1024  # elements that are added in float32; runs are added in float64
LONG = 8192  # the same, in 64 parts
STRIP = 256  # the same, of a sample
SMALL = 1e-20  # sums of squares below are not had in float32


def inner(x_SN: F32, strips: NDArray[np.intp] | None = None) -> F64:
    """X X^T, float32 (S, N) -> float64 (S, S), of all elements or of some strips of STRIP.

    The order of the sums within a run is the processor's, so the last digits are, too.
    """
    sums_SS = np.zeros((len(x_SN), len(x_SN)))
    if strips is None:
        _inner(x_SN, np.arange(-(-x_SN.shape[1] // RUN)), RUN, sums_SS)
    else:
        _inner(x_SN, strips, STRIP, sums_SS)
    return sums_SS + np.tril(sums_SS, -1).T


@reordered
def _dot(a_N: F32, b_N: F32) -> Any:
    total = np.float32(0)
    for i in range(a_N.size):
        total += a_N[i] * b_N[i]
    return total


@reordered
def _inner(x_SN: F32, runs: NDArray[np.intp], long: int, sums_SS: F64) -> None:
    for run in runs:
        start, stop = run * long, min((run + 1) * long, x_SN.shape[1])
        for s in range(x_SN.shape[0]):
            a_N = x_SN[s, start:stop]
            for u in range(s + 1):
                sums_SS[s, u] += _dot(a_N, x_SN[u, start:stop])


def four_sums(theta0_N: F32, tau_N: F32, rebuilt_N: U, dtype: str, one_in: int = 1) -> F64:
    """|e|^2, |w|^2, |tau|^2 and <tau, tau^>, float64 (4,): SPEC.md, `fidelity`.

    float32 (N,) twice, and the rebuilt weights as bits of `dtype`, (N,); w = theta_0 + tau, tau^ =
    rebuilt - theta_0, e = tau^ - tau. Runs are added in float32, in 64 parts of which each takes
    every 64th element, and then in float64: about 1e-7 from the exact sums, and the same on any
    processor. Elements that are not finite, and so the same in the base and the fine-tune, are
    left out.

    `one_in` 2, 4 or 8 looks at one strip of STRIP elements in so many, not the same each time, and
    multiplies; all are looked at where the sample sees no task vector.
    """
    values_N = rebuilt_N if dtype == "BF16" else to_float32(rebuilt_N, dtype)
    sums = _sums(theta0_N, tau_N, values_N, np.float32(0), one_in)
    if _is_in_range(sums) and (sums[2] > SMALL or not tau_N.any()):
        return np.array(sums)
    return _exact_sums(theta0_N, tau_N, to_float32(rebuilt_N, dtype))


def four_sums_of_bf16(w0_N: U, theta_N: U, rebuilt_N: U, one_in: int = 1) -> F64:
    """The same of the bits of a base, a fine-tune and what was rebuilt, (N,) thrice."""
    sums = _sums(w0_N, theta_N, rebuilt_N, np.float32(1), one_in)
    if _is_in_range(sums) and (sums[2] > SMALL or np.array_equal(theta_N, w0_N)):
        return np.array(sums)
    theta0_N, theta_f_N, rebuilt_f_N = (
        to_float32(bits_N, "BF16") for bits_N in (w0_N, theta_N, rebuilt_N)
    )
    with np.errstate(invalid="ignore"):
        return _exact_sums(theta0_N, theta_f_N - theta0_N, rebuilt_f_N)


def _is_in_range(sums: tuple[float, float, float, float]) -> bool:
    """Tell whether float32 was wide enough for the squares."""
    return math.isfinite(sum(sums)) and (sums[1] > SMALL or not any(sums))


def _exact_sums(theta0_N: F32, tau_N: F32, rebuilt_N: F32) -> F64:
    """The four sums in float64 throughout, LONG elements at a time."""
    total = np.zeros(4)
    for start in range(0, tau_N.size, LONG):
        piece = slice(start, start + LONG)
        kept_N = np.isfinite(theta0_N[piece]) & np.isfinite(rebuilt_N[piece])
        o, a, r = (x[piece][kept_N].astype(np.float64) for x in (theta0_N, tau_N, rebuilt_N))
        e, b = r - o - a, r - o
        total += [(e * e).sum(), ((o + a) ** 2).sum(), (a * a).sum(), (a * b).sum()]
    return total


def _float(x: Any) -> Any:
    """The bits of a bf16, uint16, or a float32 -> float32; for compiled loops alone."""
    raise NotImplementedError


@overload(_float)
def _float_of(x: Any) -> Any:
    from numba import types

    def widened(x: Any) -> Any:
        return np.uint32(np.uint32(x) << np.uint32(16)).view(np.float32)

    def as_it_is(x: Any) -> Any:
        return x

    return widened if x == types.uint16 else as_it_is


@jit
def _sums(
    w0_N: U, x_N: U, rebuilt_N: U, whole_x: np.float32, one_in: int
) -> tuple[float, float, float, float]:
    """`x` is the fine-tune where `whole_x` is 1, and the task vector where it is 0."""
    parts = np.zeros((4, 64), np.float32)
    e, w, t, p = parts[0], parts[1], parts[2], parts[3]
    e_all = w_all = t_all = p_all = 0.0
    group = STRIP * one_in
    whole, groups = w0_N.size // group, (w0_N.size + group - 1) // group
    each = np.float32(1 / one_in)  # of the elements past the last whole group, all looked at
    for start in range(0, groups, LONG // STRIP):
        parts[:] = 0
        for k in range(start, min(start + LONG // STRIP, whole)):  # four elements a part at a time
            i = STRIP * (k * one_in + ((k * 0x9E3779B1) >> 30 & (one_in - 1)))
            w0, x, rebuilt = w0_N[i : i + 256], x_N[i : i + 256], rebuilt_N[i : i + 256]
            for j in range(64):
                o0, o1 = _float(w0[j]), _float(w0[j + 64])
                o2, o3 = _float(w0[j + 128]), _float(w0[j + 192])
                a0 = _float(x[j]) - whole_x * o0
                a1 = _float(x[j + 64]) - whole_x * o1
                a2 = _float(x[j + 128]) - whole_x * o2
                a3 = _float(x[j + 192]) - whole_x * o3
                b0 = _float(rebuilt[j]) - o0
                b1 = _float(rebuilt[j + 64]) - o1
                b2 = _float(rebuilt[j + 128]) - o2
                b3 = _float(rebuilt[j + 192]) - o3
                d0, d1, d2, d3 = b0 - a0, b1 - a1, b2 - a2, b3 - a3
                o0, o1, o2, o3 = o0 + a0, o1 + a1, o2 + a2, o3 + a3
                e[j] += (d0 * d0 + d1 * d1) + (d2 * d2 + d3 * d3)
                w[j] += (o0 * o0 + o1 * o1) + (o2 * o2 + o3 * o3)
                t[j] += (a0 * a0 + a1 * a1) + (a2 * a2 + a3 * a3)
                p[j] += (a0 * b0 + a1 * b1) + (a2 * b2 + a3 * b3)
        if start + LONG // STRIP > whole:
            for i in range(whole * group, w0_N.size):
                o0 = _float(w0_N[i])
                a0 = _float(x_N[i]) - whole_x * o0
                b0 = _float(rebuilt_N[i]) - o0
                e[0] += (b0 - a0) * (b0 - a0) * each
                w[0] += (o0 + a0) * (o0 + a0) * each
                t[0] += a0 * a0 * each
                p[0] += a0 * b0 * each
        for j in range(64):
            e_all, w_all = e_all + e[j], w_all + w[j]
            t_all, p_all = t_all + t[j], p_all + p[j]
    return e_all * one_in, w_all * one_in, t_all * one_in, p_all * one_in


# Low-rank products in binary64, the same bits on every machine. A matrix library adds the terms of
# a sum in an order of its own, which differs between machines. Here each sum starts at 0 and takes
# its terms one by one, each a multiplication and an addition that are rounded by themselves (see
# SPEC.md, section 9).
TILE = 512  # elements that are summed up at a time, in the nearest cache


@jit
def add_product(left_OR: F64, right_RI: F64, start: int, w_N: F64) -> None:
    """Add elements [start, start + N) of the product, in C order, to `w`."""
    rank, columns = right_RI.shape
    sums, at = np.empty(TILE, np.float64), 0
    while at < w_N.size:
        row, column = (start + at) // columns, (start + at) % columns
        n = min(TILE, columns - column, w_N.size - at)
        sums[:n] = 0.0
        r = 0
        while r + 4 <= rank:
            l0, l1 = left_OR[row, r], left_OR[row, r + 1]
            l2, l3 = left_OR[row, r + 2], left_OR[row, r + 3]
            r0, r1 = right_RI[r, column : column + n], right_RI[r + 1, column : column + n]
            r2, r3 = right_RI[r + 2, column : column + n], right_RI[r + 3, column : column + n]
            for j in range(n):
                sums[j] = (((sums[j] + l0 * r0[j]) + l1 * r1[j]) + l2 * r2[j]) + l3 * r3[j]
            r += 4
        while r < rank:
            l0, r0 = left_OR[row, r], right_RI[r, column : column + n]
            for j in range(n):
                sums[j] += l0 * r0[j]
            r += 1
        for j in range(n):
            w_N[at + j] += sums[j]
        at += n


@jit
def add_squares_of_rows(w_OI: F64, squares_O: F64) -> None:
    """Add the square of each element to its row's sum."""
    for i in range(w_OI.shape[0]):
        total = squares_O[i]
        for j in range(w_OI.shape[1]):
            total += w_OI[i, j] * w_OI[i, j]
        squares_O[i] = total


@jit
def add_squares_of_columns(w_OI: F64, squares_I: F64) -> None:
    """Add the square of each element to its column's sum."""
    for i in range(w_OI.shape[0]):
        for j in range(w_OI.shape[1]):
            squares_I[j] += w_OI[i, j] * w_OI[i, j]
