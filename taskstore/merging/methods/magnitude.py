"""`magnitude`: the sum of the largest values of each task vector.

    tau = sum_t tau_t [|tau_t| >= its threshold],  the largest K = `density` of the flat vector

The baseline that TALL-masks are compared with (Wang et al., arXiv 2405.07813; in the authors' code
`sum` with k below 100). Thresholds are exact, ties at them are kept: see `merge.trim`.

Legend: S = tasks that have these elements, N = elements.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from taskstore.kernels.jit import jit
from taskstore.merging.methods.api import F32, Blockwise, Info, Scan, Vectors
from taskstore.merging.methods.trim import DENSITY, PER_TENSOR, Trim

BLOCK = 4096  # elements: they stay in the first-level cache


class Magnitude(Blockwise):
    INFO = Info(
        "Magnitude",
        "tau = sum_t tau_t where |tau_t| is among the largest K of its task",
        "Wang et al., arXiv 2405.07813",
        (DENSITY, PER_TENSOR),
    )
    passes = Trim.passes

    def __init__(self, density: float = 0.2, per_tensor: float = 0) -> None:
        self.options: Mapping[str, float] = {"density": density, "per_tensor": int(per_tensor)}
        self._trim = Trim(density, per_tensor=bool(per_tensor))

    def fit(self, scan: Scan) -> None:
        self._trim.fit(scan)

    def merge(self, block: Vectors) -> F32:
        merged_N = np.empty(block.tau_SN.shape[1], np.float32)
        add_trimmed(block.tau_SN, self._trim.thresholds(block), merged_N)
        return merged_N


@jit
def add_trimmed(tau_SN: F32, threshold_S: F32, merged_N: F32) -> None:
    tasks, n = tau_SN.shape
    for start in range(0, n, BLOCK):
        stop = min(start + BLOCK, n)
        merged = merged_N[start:stop]
        merged[:] = np.float32(0)
        for s in range(tasks):
            tau, least = tau_SN[s, start:stop], threshold_S[s]
            for i in range(stop - start):
                merged[i] += tau[i] if abs(tau[i]) >= least else np.float32(0)
