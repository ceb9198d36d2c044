"""`consensus`: only weights that several tasks would take (Wang et al., arXiv 2405.07813).

    m_t = the TALL-mask of task t over the merged vector tau_MTL, at `lam`
    tau = tau_MTL where sum_t m_t >= k, else 0

k = 2 leaves out catastrophic weights, which no task wants, and selfish ones, which one does; k = 1
leaves out catastrophic ones; k = 0 is the plain merge, more than the tasks the base. tau_MTL is
their `sum`, or `ties` with the sum of the chosen values, as in the authors' code. A mask is the
same that a store keeps: it counts weights whose value it can change, compares the task vector as it
is, without its weight and untrimmed, and follows the sign where the merged vector's masks do.

Legend: S = tasks that have these elements, N = elements, P = ceil(N / 8) packed bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from taskstore.kernels import cpu
from taskstore.kernels.tall import tall
from taskstore.merging.methods.api import F32, Blockwise, Info, Method, Option, Scan, Vectors
from taskstore.merging.methods.changed import Changed


class Consensus(Blockwise):
    INFO = Info(
        "Consensus",
        "tau = tau_MTL where at least k TALL-masks take it, else 0",
        "Wang et al., arXiv 2405.07813",
        (
            Option("k", 2, 0, 1000, "tasks that must want a weight", whole=True),
            Option("lam", 0.5, 0, 1000, "threshold of the masks; 0.2 to 0.6 in the paper"),
        ),
        least=2,
        over="sum",
        packs=False,
        masks=True,
    )
    weighs = True

    def __init__(self, inner: Method, k: float = 2, lam: float = 0.5) -> None:
        self._inner, self._k, self._lam = inner, int(k), lam
        self.options: Mapping[str, float] = {**inner.options, "k": int(k), "lam": lam}
        self.one_sided, self.passes = inner.one_sided, inner.passes

    def fit(self, scan: Scan) -> None:
        self._inner.fit(Changed(scan, self._weighted))

    def merge(self, block: Vectors) -> F32:
        merged_N = self._inner.merge(self._weighted(block))
        if self._k > 0:
            merged_N[self._votes(block, merged_N) < self._k] = 0
        return merged_N

    def _votes(self, block: Vectors, merged_N: F32) -> Any:
        """How many tasks take each weight, uint16 (N,)."""
        w1_N = cpu.add(block.theta0_N, merged_N, block.w0_N, block.dtype)
        votes_N = np.zeros(merged_N.size, np.uint16)
        for tau_N in block.tau_SN:
            bits_P, _ = tall(tau_N, merged_N, block.w0_N, w1_N, self._lam, self.one_sided)
            votes_N += np.unpackbits(bits_P, count=merged_N.size, bitorder="little")
        return votes_N

    def _weighted(self, block: Vectors) -> Vectors:
        """As the method below wants it."""
        if self._inner.weighs or (block.weight_S == 1).all():
            return block
        return replace(block, tau_SN=block.tau_SN * block.weight_S[:, None])
