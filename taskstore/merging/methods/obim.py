"""`obim`: each task in turn takes the weights that matter most to it and that no other has taken.

    saliency_t = tau_t^2 x diagonal of G_t,   G_t = X_t^T X_t / n of the inputs   (arXiv 2502.12217)
    m_t = the largest `density` of it, per matrix, without what an earlier task took
    tau = sum_t m_t tau_t

From summaries of the paper, whose code was not found: that shares are taken per matrix, that tasks
come in the order in which they are given, and `density` are ours. Values that equal the threshold
are all taken. Tensors without a G are the weighted mean. A task's weight multiplies its vector, and
does not change what it takes.
"""

from __future__ import annotations

import numpy as np

from taskstore.merging.methods.api import F32, Info, Method, Option, Vectors, Whole
from taskstore.merging.methods.mean import mean


class Obim(Method):
    INFO = Info(
        "OBIM",
        "in turn, each task's largest tau_t^2 diag(G_t) that none has taken; tau = sum of these",
        "Wang et al., arXiv 2502.12217 (not checked against code)",
        (Option("density", 0.2, 1e-6, 1, "share of each matrix that a task may take"),),
        statistics=("gram",),
        whole=True,
        memory="one matrix and a Gram matrix of its inputs: about 4 I^2 + 30 O I bytes",
    )
    weighs = True

    def merge(self, block: Vectors) -> F32:
        return mean(block.tau_SN, block.weight_S, block.tensor)

    def wants_whole(self, tensor: str, shape: tuple[int, ...]) -> bool:
        return tensor in self.matrices

    def merge_whole(self, matrix: Whole) -> F32:
        merged_OI = np.zeros(matrix.shape, np.float32)
        free_OI = np.ones(matrix.shape, np.bool_)
        size = merged_OI.size
        count = max(1, int(size * self.options["density"]))
        for s, weight in enumerate(matrix.weight_S):
            tau_OI = matrix.read(s)
            saliency_OI = tau_OI.astype(np.float64) ** 2
            saliency_OI *= matrix.statistic("gram", s).diagonal()
            least = np.partition(saliency_OI, size - count, axis=None)[size - count]
            taken_OI = free_OI & (saliency_OI >= least)
            merged_OI[taken_OI] = weight * tau_OI[taken_OI]
            free_OI &= ~taken_OI
        return merged_OI

    def matrix_bytes(self, shape: tuple[int, int], tasks: int) -> int:
        outputs, inputs = shape
        return 4 * inputs * inputs + 30 * outputs * inputs
