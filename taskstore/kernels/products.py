"""Adds up the inner products of vectors, and the four sums that say how near one is to another.

Legend: S = vectors, N = their elements.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from taskstore.kernels.floats import to_float32
from taskstore.kernels.jit import jit

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
U = NDArray[Any]
RUN = 1024  # elements that are added in float32; runs are added in float64


def inner(x_SN: F32) -> F64:
    """X X^T, float32 (S, N) -> float64 (S, S).

    The order of the sums within a run is the processor's, so the last digits are, too.
    """
    sums_SS = np.zeros((len(x_SN), len(x_SN)))
    _inner(x_SN, sums_SS)
    return sums_SS + np.tril(sums_SS, -1).T


def _compiled(function: Any) -> Any:
    """Compile a loop of sums that may be reordered, which vectors of the processor need."""
    try:
        return numba.njit(nogil=True, cache=True, fastmath={"reassoc"})(function)
    except RuntimeError:  # numba finds no writable folder for its cache
        return numba.njit(nogil=True, fastmath={"reassoc"})(function)


@_compiled
def _dot(a_N: F32, b_N: F32) -> Any:
    total = np.float32(0)
    for i in range(a_N.size):
        total += a_N[i] * b_N[i]
    return total


@_compiled
def _inner(x_SN: F32, sums_SS: F64) -> None:
    for start in range(0, x_SN.shape[1], RUN):
        stop = min(start + RUN, x_SN.shape[1])
        for s in range(x_SN.shape[0]):
            a_N = x_SN[s, start:stop]
            for u in range(s + 1):
                sums_SS[s, u] += _dot(a_N, x_SN[u, start:stop])


def four_sums(theta0_N: F32, tau_N: F32, rebuilt_N: U, dtype: str) -> F64:
    """|e|^2, |w|^2, |tau|^2 and <tau, tau^>, float64 (4,): SPEC.md, `fidelity`.

    float32 (N,) twice, and the rebuilt weights as bits of `dtype`, (N,); w = theta_0 + tau, tau^ =
    rebuilt - theta_0, e = tau^ - tau. All is float64, and each sum has 64 parts, of which each
    takes every 64th element: the result is the same on any processor. Elements that are not
    finite, and so the same in the base and the fine-tune, are left out.
    """
    if dtype == "BF16":
        sums = np.array(_four_sums(theta0_N, tau_N, rebuilt_N, np.uint32(16)))
        if np.isfinite(sums).all():
            return sums
    values_N = to_float32(rebuilt_N, dtype)
    sums = np.array(_four_sums(theta0_N, tau_N, values_N.view(np.uint32), np.uint32(0)))
    if np.isfinite(sums).all():
        return sums
    kept_N = np.isfinite(theta0_N) & np.isfinite(values_N)
    bits_N = values_N[kept_N].view(np.uint32)
    return np.array(_four_sums(theta0_N[kept_N], tau_N[kept_N], bits_N, np.uint32(0)))


@jit
def _wide(x: Any, shift: np.uint32) -> Any:
    """The upper or all bits of a float32 -> float64."""
    return np.float64(np.uint32(np.uint32(x) << shift).view(np.float32))


@jit
def _four_sums(
    theta0_N: F32, tau_N: F32, rebuilt_N: U, shift: np.uint32
) -> tuple[float, float, float, float]:
    f64, whole = np.float64, tau_N.size // 256 * 256
    e, w, t, p = np.zeros(64), np.zeros(64), np.zeros(64), np.zeros(64)
    for i in range(0, whole, 256):  # four elements a part, so that it is loaded once for them
        theta0, tau, rebuilt = theta0_N[i : i + 256], tau_N[i : i + 256], rebuilt_N[i : i + 256]
        for j in range(64):
            o0, o1, o2, o3 = (
                f64(theta0[j]),
                f64(theta0[j + 64]),
                f64(theta0[j + 128]),
                f64(theta0[j + 192]),
            )
            a0, a1, a2, a3 = f64(tau[j]), f64(tau[j + 64]), f64(tau[j + 128]), f64(tau[j + 192])
            b0, b1 = _wide(rebuilt[j], shift) - o0, _wide(rebuilt[j + 64], shift) - o1
            b2, b3 = _wide(rebuilt[j + 128], shift) - o2, _wide(rebuilt[j + 192], shift) - o3
            d0, d1, d2, d3 = b0 - a0, b1 - a1, b2 - a2, b3 - a3
            o0, o1, o2, o3 = o0 + a0, o1 + a1, o2 + a2, o3 + a3
            e[j] += (d0 * d0 + d1 * d1) + (d2 * d2 + d3 * d3)
            w[j] += (o0 * o0 + o1 * o1) + (o2 * o2 + o3 * o3)
            t[j] += (a0 * a0 + a1 * a1) + (a2 * a2 + a3 * a3)
            p[j] += (a0 * b0 + a1 * b1) + (a2 * b2 + a3 * b3)
    for i in range(whole, tau_N.size):
        o, a = f64(theta0_N[i]), f64(tau_N[i])
        b = _wide(rebuilt_N[i], shift) - o
        e[0] += (b - a) * (b - a)
        w[0] += (o + a) * (o + a)
        t[0] += a * a
        p[0] += a * b
    return e.sum(), w.sum(), t.sum(), p.sum()
