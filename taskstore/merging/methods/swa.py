"""`swa`: the running mean of a run's checkpoints (Izmailov et al., arXiv 1803.05407).

    w <- (n w + w_i) / (n + 1)        for checkpoint n, from 0

On task vectors, which gives theta_0 + that. Statistics that are kept of activations, as batch
normalisation keeps them, must be estimated anew for the result.

Legend: S = checkpoints that have these elements, N = elements.
"""

from __future__ import annotations

import numpy as np

from taskstore.kernels.jit import jit
from taskstore.merging.methods.api import F32, Blockwise, Info, Vectors

BLOCK = 4096  # elements: they stay in the first-level cache


class Swa(Blockwise):
    INFO = Info(
        "SWA",
        "tau <- (n tau + tau_i) / (n + 1), over the checkpoints of a run",
        "Izmailov et al., arXiv 1803.05407",
        packs=False,
        weights=False,
    )

    def merge(self, block: Vectors) -> F32:
        merged_N = np.empty(block.tau_SN.shape[1], np.float32)
        running_mean(block.tau_SN, merged_N)
        return merged_N


@jit
def running_mean(tau_SN: F32, merged_N: F32) -> None:
    tasks, n = tau_SN.shape
    for start in range(0, n, BLOCK):
        stop = min(start + BLOCK, n)
        merged = merged_N[start:stop]
        merged[:] = np.float32(0)
        for s in range(tasks):
            tau, before = tau_SN[s, start:stop], np.float32(s)
            count = np.float32(s + 1)
            for i in range(stop - start):
                merged[i] = (before * merged[i] + tau[i]) / count
