"""`sum`: tau_MTL = sum_t tau_t, without scaling.

Task arithmetic (Ilharco et al., arXiv 2212.04089) with alpha = 1, which is what TALL-masks are
published for (Wang et al., arXiv 2405.07813). Tasks are added one after the other in the order of
their names, in float32, so the result has one value on every machine.
"""

from __future__ import annotations

import numpy as np

from taskstore.merging.methods.api import F32, Info, Method, Vectors
from taskstore.native import sums


class Sum(Method):
    INFO = Info(
        "Task arithmetic",
        "tau = sum_t w_t tau_t; weights may be negative",
        "Ilharco et al., arXiv 2212.04089",
    )

    def merge(self, block: Vectors) -> F32:
        return add_up(block.tau_SN, np.ones_like(block.weight_S), np.zeros_like(block.weight_S))


def add_up(tau_SN: F32, weight_S: F32, least_S: F32) -> F32:
    """(w_0 tau_0 + w_1 tau_1) + ..., float32 (N,), of the values with |tau_s| >= least_s."""
    merged_N = np.empty(tau_SN.shape[1], np.float32)
    sums.weighted(tau_SN, weight_S, least_S, merged_N)
    return merged_N
