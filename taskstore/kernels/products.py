"""Adds up the inner products of vectors, and the four sums that say how near one is to another.

Legend: S = vectors, N = their elements.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskstore.kernels.floats import to_float32
from taskstore.native import products as loops

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
U = NDArray[Any]
RUN = 1024  # elements that are added in float32; runs are added in float64
LONG = 8192  # the same, in 64 parts
STRIP = 256  # the same, of a sample
SMALL = 1e-20  # sums of squares below are not had in float32


def inner(x_SN: F32, strips: NDArray[np.intp] | None = None) -> F64:
    """X X^T, float32 (S, N) -> float64 (S, S), of all elements or of some strips of STRIP.

    Runs are added in float32, in 64 parts, and then in float64: the same on any processor.
    """
    sums_SS = np.zeros((len(x_SN), len(x_SN)))
    if strips is None:
        loops.inner(x_SN, np.arange(-(-x_SN.shape[1] // RUN)), RUN, sums_SS)
    else:
        loops.inner(x_SN, strips, STRIP, sums_SS)
    return sums_SS + np.tril(sums_SS, -1).T


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
    sums = np.empty(4)
    loops.four_sums(theta0_N, tau_N, values_N, one_in, sums)
    if _is_in_range(sums) and (sums[2] > SMALL or not tau_N.any()):
        return sums
    return _exact_sums(theta0_N, tau_N, to_float32(rebuilt_N, dtype))


def four_sums_of_bf16(w0_N: U, theta_N: U, rebuilt_N: U, one_in: int = 1) -> F64:
    """The same of the bits of a base, a fine-tune and what was rebuilt, (N,) thrice."""
    sums = np.empty(4)
    loops.four_sums_of_bf16(w0_N, theta_N, rebuilt_N, one_in, sums)
    return had_of_bf16(sums, w0_N, theta_N, rebuilt_N)


def had_of_bf16(sums: F64, w0_N: U, theta_N: U, rebuilt_N: U) -> F64:
    """The four sums that a loop found in float32, or the exact ones where that was too narrow."""
    if _is_in_range(sums) and (sums[2] > SMALL or np.array_equal(theta_N, w0_N)):
        return sums
    theta0_N, theta_f_N, rebuilt_f_N = (
        to_float32(bits_N, "BF16") for bits_N in (w0_N, theta_N, rebuilt_N)
    )
    with np.errstate(invalid="ignore"):
        return _exact_sums(theta0_N, theta_f_N - theta0_N, rebuilt_f_N)


def _is_in_range(sums: F64) -> bool:
    """Tell whether float32 was wide enough for the squares."""
    return bool(np.isfinite(sums).all() and (sums[1] > SMALL or not sums.any()))


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
