"""`sum`: tau_MTL = sum_t tau_t, without scaling.

Task arithmetic (Ilharco et al., arXiv 2212.04089) with alpha = 1, which is what TALL-masks are
published for (Wang et al., arXiv 2405.07813). Tasks are added one after the other in the order of
their names, in float32, so the result has one value on every machine.
"""

from __future__ import annotations

import numpy as np

from taskstore.kernels.jit import jit
from taskstore.merging.methods.api import BLOCK, F32, Info, Method, Vectors


class Sum(Method):
    INFO = Info(
        "Task arithmetic",
        "tau = sum_t w_t tau_t; weights may be negative",
        "Ilharco et al., arXiv 2212.04089",
    )

    def merge(self, block: Vectors) -> F32:
        return add_up(block.tau_SN, np.ones_like(block.weight_S), np.zeros_like(block.weight_S))


@jit
def add_up(tau_SN: F32, weight_S: F32, least_S: F32) -> F32:
    """(w_0 tau_0 + w_1 tau_1) + ..., float32 (N,), of the values with |tau_s| >= least_s."""
    tasks, n = tau_SN.shape
    merged_N = np.zeros(n, np.float32)
    for start in range(0, n, BLOCK):
        stop = min(start + BLOCK, n)
        merged = merged_N[start:stop]
        for s in range(tasks):
            tau, w, least = tau_SN[s, start:stop], weight_S[s], least_S[s]
            for i in range(stop - start):
                merged[i] += w * tau[i] if abs(tau[i]) >= least else np.float32(0)
    return merged_N
