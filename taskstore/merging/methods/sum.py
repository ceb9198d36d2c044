"""`sum`: tau_MTL = sum_t tau_t, without scaling.

Task arithmetic (Ilharco et al., arXiv 2212.04089) with alpha = 1, which is what TALL-masks are
published for (Wang et al., arXiv 2405.07813). Tasks are added one after the other in the order of
their names, in float32, so the result has one value on every machine.

Legend: S = tasks that have these elements, N = elements.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from taskstore.kernels.jit import jit
from taskstore.merging.methods.api import Blockwise, Info, Vectors

F32 = NDArray[np.float32]


class Sum(Blockwise):
    INFO = Info(
        "Task arithmetic",
        "tau = sum_t w_t tau_t; weights may be negative",
        "Ilharco et al., arXiv 2212.04089",
    )

    def merge(self, block: Vectors) -> F32:
        merged_N = np.empty(block.tau_SN.shape[1], np.float32)
        add_up(block.tau_SN, merged_N)
        return merged_N


@jit
def add_up(tau_SN: F32, merged_N: F32) -> None:
    """merged = ((tau_0 + tau_1) + tau_2) + ..., block by block so that it stays in cache."""
    tasks, n = tau_SN.shape
    for start in range(0, n, 4096):
        stop = min(start + 4096, n)
        merged = merged_N[start:stop]
        merged[:] = np.float32(0)
        for t in range(tasks):
            tau = tau_SN[t, start:stop]
            for i in range(stop - start):
                merged[i] += tau[i]
