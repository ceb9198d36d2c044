"""Adds up the inner products of vectors.

Legend: S = vectors, N = their elements.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
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
