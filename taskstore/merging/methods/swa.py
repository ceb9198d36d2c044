"""`swa`: the running mean of a run's checkpoints (Izmailov et al., arXiv 1803.05407).

    w <- (n w + w_i) / (n + 1)        for checkpoint n, from 0

It runs over task vectors, which gives the same mean. Statistics that are kept of activations, as
batch normalisation keeps them, must be estimated anew for the result.
"""

from __future__ import annotations

import numpy as np

from taskstore.merging.methods.api import F32, Info, Method, Vectors, pieces


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


def running_mean(tau_SN: F32) -> F32:
    """The mean after the last checkpoint, float32 (N,)."""
    merged_N = np.zeros(tau_SN.shape[1], np.float32)
    for part in pieces(merged_N.size):
        merged = merged_N[part]
        for s, tau in enumerate(tau_SN[:, part]):
            merged *= np.float32(s)
            merged += tau
            merged /= np.float32(s + 1)
    return merged_N
