"""`emr`: the unified vector of EMR-Merging (Huang et al., arXiv 2405.17461).

    gamma = +1 where mean_t tau_t > 0, else -1
    tau   = gamma max |tau_t| over the tasks with tau_t gamma > 0, 0 where there is none

Checked against the authors' code. EMR's own masks, tau_t gamma > 0, and scales are not part of the
vector: a store masks this vector as it does any other.
"""

from __future__ import annotations

import numpy as np

from taskstore.merging.methods.api import F32, Info, Method, Vectors, pieces
from taskstore.native import elements


class Emr(Method):
    INFO = Info(
        "EMR",
        "gamma = +1 where mean tau_t > 0, else -1; tau = gamma max |tau_t| of that sign",
        "Huang et al., arXiv 2405.17461",
    )

    def merge(self, block: Vectors) -> F32:
        return unify(block.tau_SN)


def unify(tau_SN: F32) -> F32:
    """The extreme on gamma's side, or 0 if there is none; float32 (N,)."""
    merged_N = np.empty(tau_SN.shape[1], np.float32)
    for part in pieces(merged_N.size):
        total, low, high = np.zeros((3, merged_N[part].size), np.float32)
        for tau in tau_SN[:, part]:
            total += tau
            np.minimum(low, tau, out=low)
            np.maximum(high, tau, out=high)
        elements.choose(total > 0, high, low, merged_N[part])
    merged_N += np.float32(0)  # no -0
    return merged_N
