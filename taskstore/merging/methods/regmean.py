"""`regmean`: the linear layer that answers all tasks' inputs as their own layers do.

    W^T = (sum_t G_t)^-1 sum_t G_t W_t^T,   G_t = X_t^T X_t / n of the inputs

This is the least-squares solution (Jin et al., arXiv 2212.09849). All W_t are W_0 + tau_t, so the
same holds of the vectors. Off the diagonal G_t is scaled by `a`: 0.9 in the paper, 1 leaves it. A
task's weight multiplies its G_t. Tensors without a G are the weighted mean.

Inputs that no task ever used make the sum singular. 1e-10 of the sum's mean diagonal is therefore
added to the diagonal of each G_t. It shows only in such inputs: their weights become the mean.

Arithmetic is float64; memory holds one task's matrices.

Legend: O, I = outputs and inputs of a layer.
"""

from __future__ import annotations

import numpy as np

from taskstore.merging.methods.api import F32, Info, Method, Option, Vectors, Whole
from taskstore.merging.methods.input_products import F64, GRAM, gram_bytes
from taskstore.merging.methods.mean import check_positive, mean

RIDGE = 1e-10


class RegMean(Method):
    INFO = Info(
        "RegMean",
        "W^T = (sum_t G_t)^-1 sum_t G_t W_t^T, G_t = inner products of a layer's inputs",
        "Jin et al., arXiv 2212.09849",
        (Option("a", 0.9, 0, 1, "scale of the Gram matrices off their diagonal"),),
        statistics=("gram",),
        whole=True,
        memory=GRAM,
    )
    weighs = True

    def merge(self, block: Vectors) -> F32:
        check_positive(block.weight_S, block.tensor, "regmean")
        return mean(block.tau_SN, block.weight_S, block.tensor)

    def wants_whole(self, tensor: str, shape: tuple[int, ...]) -> bool:
        return tensor in self.matrices

    def merge_whole(self, matrix: Whole) -> F32:
        check_positive(matrix.weight_S, matrix.tensor, "regmean")
        outputs, inputs = matrix.shape
        gram_II, wanted_IO = np.zeros((inputs, inputs)), np.zeros((inputs, outputs))
        mean_IO = np.zeros((inputs, outputs))
        weights = matrix.weight_S.astype(np.float64) / matrix.weight_S.sum(dtype=np.float64)
        for s, weight in enumerate(weights):
            own_II = weight * shrunk(matrix.statistic("gram", s), self.options["a"])
            tau_IO = matrix.read(s).T.astype(np.float64)
            gram_II += own_II
            wanted_IO += own_II @ tau_IO
            mean_IO += weight * tau_IO
        ridge = RIDGE * float(gram_II.diagonal().mean()) or 1.0
        gram_II[np.diag_indices(inputs)] += ridge
        merged_IO = np.linalg.solve(gram_II, wanted_IO + ridge * mean_IO)
        return np.ascontiguousarray(merged_IO.T, np.float32)

    def matrix_bytes(self, shape: tuple[int, int], tasks: int) -> int:
        return gram_bytes(shape)


def shrunk(gram_II: F32, a: float) -> F64:
    """Off-diagonal values times a, float64."""
    wide_II = gram_II.astype(np.float64)
    scaled_II = wide_II * a
    np.fill_diagonal(scaled_II, wide_II.diagonal())
    return scaled_II
