"""`lsq`: per element, the value that masks can use best, by least squares.

Masks choose between W0 and W0 + v, so an element costs sum_t min(tau_t^2, (tau_t - v)^2). The best
v is two-means with one centre pinned at zero: the mean of the j most extreme values on one side,
with j and the side such that the gain j v^2 is largest. It is found exactly: the T values are
sorted, and all j are tried from both ends. The method is ours, not published. The sum can drown a
task whose vector is short, or add up to what no task wanted; this method does neither
(docs/fidelity.md has accuracies).

A network sorts the values (Batcher's merge exchange, Knuth 5.2.2 M), with a minimum and a maximum
of vectors per comparison. Arithmetic is float32. Sums start at the most extreme value, so the
result has one value on every machine.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from taskstore.merging.methods.api import F32, Info, Method, Vectors
from taskstore.native import least_squares

Pairs = NDArray[np.int64]


class Lsq(Method):
    INFO = Info(
        "Least squares",
        "v = argmin sum_t min(tau_t^2, (tau_t - v)^2), per element",
        "taskstore, docs/fidelity.md",
    )
    one_sided = True

    def merge(self, block: Vectors) -> F32:
        tau_SN = np.ascontiguousarray(block.tau_SN)
        merged_N = np.empty(tau_SN.shape[1], np.float32)
        least_squares.least_squares(tau_SN, network(len(tau_SN)), merged_N)
        return merged_N


def network(n: int) -> Pairs:
    """Comparisons (i, j), i < j, that sort n values when done in order; int64 (C, 2)."""
    pairs = []
    p = 1
    while p < n:
        k = p
        while k >= 1:
            for j in range(k % p, n - k, 2 * k):
                for i in range(min(k, n - j - k)):
                    if (i + j) // (2 * p) == (i + j + k) // (2 * p):
                        pairs.append((i + j, i + j + k))
            k //= 2
        p *= 2
    return np.array(pairs, np.int64).reshape(-1, 2)
