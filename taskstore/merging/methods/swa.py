"""`swa`: the running mean of a run's checkpoints (Izmailov et al., arXiv 1803.05407).

    w <- (n w + w_i) / (n + 1)        for checkpoint n, from 0

It runs over task vectors, which gives the same mean. Statistics that are kept of activations, as
batch normalisation keeps them, must be estimated anew for the result.
"""

from __future__ import annotations

import numpy as np

from taskstore.kernels.jit import jit
from taskstore.merging.methods.api import BLOCK, F32, Info, Method, Vectors


class Swa(Method):
    INFO = Info(
        "SWA",
        "tau <- (n tau + tau_i) / (n + 1), over the checkpoints of a run",
        "Izmailov et al., arXiv 1803.05407",
        packs=False,
        weights=False,
    )

    def merge(self, block: Vectors) -> F32:
        return running_mean(block.tau_SN)


@jit
def running_mean(tau_SN: F32) -> F32:
    tasks, n = tau_SN.shape
    merged_N = np.zeros(n, np.float32)
    for start in range(0, n, BLOCK):
        stop = min(start + BLOCK, n)
        merged = merged_N[start:stop]
        for s in range(tasks):
            tau, before = tau_SN[s, start:stop], np.float32(s)
            count = np.float32(s + 1)
            for i in range(stop - start):
                merged[i] = (before * merged[i] + tau[i]) / count
    return merged_N
