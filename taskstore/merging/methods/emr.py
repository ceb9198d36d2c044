"""`emr`: the unified vector of EMR-Merging (Huang et al., arXiv 2405.17461).

    gamma = +1 where mean_t tau_t > 0, else -1
    tau   = gamma max |tau_t| over the tasks with tau_t gamma > 0, 0 where there is none

Checked against the authors' code. EMR's own masks, tau_t gamma > 0, and scales are not part of the
vector: a store masks this vector as it does any other.
"""

from __future__ import annotations

import numpy as np

from taskstore.kernels.jit import jit
from taskstore.merging.methods.api import BLOCK, F32, Info, Method, Vectors


class Emr(Method):
    INFO = Info(
        "EMR",
        "gamma = +1 where mean tau_t > 0, else -1; tau = gamma max |tau_t| of that sign",
        "Huang et al., arXiv 2405.17461",
    )

    def merge(self, block: Vectors) -> F32:
        return unify(block.tau_SN)


@jit
def unify(tau_SN: F32) -> F32:
    """Take the sum and both extremes, then the extreme on gamma's side, or 0 if there is none.

    Floats above 0 have the order of their bits as integers, whose maximum is vectorised. Floats
    below 0 are negative integers, which become positive when their sign bit is flipped.
    """
    tasks, n = tau_SN.shape
    merged_N = np.empty(n, np.float32)
    total = np.empty(BLOCK, np.float32)
    low, high = np.empty(BLOCK, np.int32), np.empty(BLOCK, np.int32)
    sign = np.int32(-(1 << 31))
    for start in range(0, n, BLOCK):
        size = min(BLOCK, n - start)
        merged = merged_N[start : start + size].view(np.int32)
        total[:], low[:], high[:] = np.float32(0), np.int32(0), np.int32(0)
        for s in range(tasks):
            tau = tau_SN[s, start : start + size]
            bits = tau.view(np.int32)
            for i in range(size):
                total[i] += tau[i]
                low[i] = max(low[i], bits[i] ^ sign)
                high[i] = max(high[i], bits[i])
        for i in range(size):
            below = low[i] ^ sign if low[i] > 0 else np.int32(0)
            merged[i] = high[i] if total[i] > 0 else below
    return merged_N
