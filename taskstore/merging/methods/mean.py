"""The weighted mean, which averages are made of and other methods fall back to.

    sum_t w_t tau_t / sum_t w_t        over the tasks that have the tensor

float32, one task after the other, so the result has one value on every machine.

Legend: S = tasks that have these elements, N = elements.
"""

from __future__ import annotations

import numpy as np

from taskstore.errors import InputError
from taskstore.kernels.jit import jit
from taskstore.merging.methods.api import F32

BLOCK = 4096  # elements: they stay in the first-level cache


def mean(tau_SN: F32, weight_S: F32, tensor: str) -> F32:
    """The weighted mean of vectors; raises InputError where the weights add up to nothing."""
    total = float(weight_S.sum(dtype=np.float64))
    if abs(total) <= 1e-6 * float(np.abs(weight_S).sum(dtype=np.float64)):
        raise InputError(
            f"tensor {tensor!r}: the weights of its fine-tunes add up to 0, so they have no mean; "
            "give weights with another sum, or merge by sum"
        )
    merged_N = np.empty(tau_SN.shape[1], np.float32)
    weighted_mean(tau_SN, weight_S, np.float32(total), merged_N)
    return merged_N


def check_positive(weight_S: F32, tensor: str, method: str) -> None:
    """Raise InputError unless every weight is 0 or more and one is more."""
    if not ((weight_S >= 0).all() and weight_S.any()):
        raise InputError(
            f"tensor {tensor!r}: method {method!r} takes weights of 0 and more, one of them above 0"
        )


@jit
def weighted_mean(tau_SN: F32, weight_S: F32, total: np.float32, merged_N: F32) -> None:
    """merged = (w_0 tau_0 + w_1 tau_1 + ...) / total, block by block so that it stays in cache."""
    tasks, n = tau_SN.shape
    for start in range(0, n, BLOCK):
        stop = min(start + BLOCK, n)
        merged = merged_N[start:stop]
        merged[:] = np.float32(0)
        for s in range(tasks):
            tau, w = tau_SN[s, start:stop], weight_S[s]
            for i in range(stop - start):
                merged[i] += w * tau[i]
        for i in range(stop - start):
            merged[i] /= total
