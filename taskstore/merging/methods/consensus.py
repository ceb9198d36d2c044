"""`consensus`: only the weights that several tasks want (Wang et al., arXiv 2405.07813).

    m_t = the TALL-mask of task t over the merged vector tau_MTL, at `lam`
    tau = tau_MTL where sum_t m_t >= k, else 0

k = 2 leaves out catastrophic weights, which no task wants, and selfish ones, which one task wants.
k = 1 leaves out only the catastrophic ones, k = 0 is the plain merge, and a k above the number of
tasks gives the base. tau_MTL is the tasks' `sum`, or `ties` with the sum of the chosen values, as
in the authors' code. The masks are those that a store keeps: a mask counts weights whose value it
can change, compares the task vector unweighted and untrimmed, and is one-sided if the merged
vector's masks are.

Legend: P = ceil(N / 8) packed bytes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from taskstore.kernels import cpu
from taskstore.kernels.tall import tall
from taskstore.merging.methods.api import F32, Info, Method, Option, Vectors
from taskstore.merging.methods.over import After, Before


class Consensus(After):
    INFO = Info(
        "Consensus",
        "tau = tau_MTL where at least k TALL-masks take it, else 0",
        "Wang et al., arXiv 2405.07813",
        (
            Option("k", 2, 0, 1000, "tasks that must want a weight", whole=True),
            Option("lam", 0.5, 0, 1000, "threshold of the masks; 0.2 to 0.6 in the paper"),
        ),
        least=2,
        stage="after",
        packs=False,
        masks=True,
    )

    def __init__(self, inner: Method, **options: float) -> None:
        super().__init__(inner if inner.weighs else Weighted(inner), **options)

    def _finish(self, block: Vectors, merged_N: F32) -> F32:
        if self.options["k"] > 0:
            merged_N[self._votes(block, merged_N) < self.options["k"]] = 0
        return merged_N

    def _votes(self, block: Vectors, merged_N: F32) -> Any:
        """The number of tasks that want each weight, uint16 (N,)."""
        lam = self.options["lam"]
        w1_N = cpu.add(block.theta0_N, merged_N, block.w0_N, block.dtype)
        votes_N = np.zeros(merged_N.size, np.uint16)
        for tau_N in block.tau_SN:
            bits_P, _ = tall(tau_N, merged_N, block.w0_N, w1_N, lam, self.one_sided)
            votes_N += np.unpackbits(bits_P, count=merged_N.size, bitorder="little")
        return votes_N


class Weighted(Before):
    """Multiplies the vectors by their weights, for a method that does not weigh them itself."""

    INFO = Info("Weighted", "w_t tau_t", "")

    def __init__(self, inner: Method) -> None:
        super().__init__(inner)
        self.weighs = True

    def _change(self, block: Vectors) -> Vectors:
        if (block.weight_S == 1).all():
            return block
        return replace(block, tau_SN=block.tau_SN * block.weight_S[:, None])
