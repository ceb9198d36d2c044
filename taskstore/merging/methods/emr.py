"""`emr`: the unified vector of EMR-Merging (Huang et al., arXiv 2405.17461).

    gamma = +1 where mean_t tau_t > 0, else -1
    tau   = gamma max |tau_t| over the tasks with tau_t gamma > 0, 0 where there is none

Checked against the authors' code. Its masks, tau_t gamma > 0, and scales are not part of the
vector; a store masks it as it does any other.

Legend: S = tasks that have these elements, N = elements.
"""

from __future__ import annotations

import numpy as np

from taskstore.kernels.jit import jit
from taskstore.merging.methods.api import F32, Blockwise, Info, Vectors

BLOCK = 2048  # elements: they stay in the first-level cache


class Emr(Blockwise):
    INFO = Info(
        "EMR",
        "gamma = +1 where mean tau_t > 0, else -1; tau = gamma max |tau_t| of that sign",
        "Huang et al., arXiv 2405.17461",
    )

    def merge(self, block: Vectors) -> F32:
        merged_N = np.empty(block.tau_SN.shape[1], np.float32)
        unify(block.tau_SN, merged_N)
        return merged_N


@jit
def unify(tau_SN: F32, merged_N: F32) -> None:
    """The sum, then both extremes: the one on gamma's side, or 0 where none is beyond 0.

    Floats above 0 are ordered as their bits are as integers, whose maximum is vectorised; those
    below 0 are negative integers, and become positive ones when their sign bit is flipped.
    """
    tasks, n = tau_SN.shape
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
