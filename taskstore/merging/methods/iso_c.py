"""`iso_c`: the sum of the vectors with all its singular values made equal.

    sum_t tau_t = U S V^T,   tau = mean(S) U V^T                             (arXiv 2502.04959)

per matrix; all other tensors are the mean. Checked against the authors' code, which leaves out a
tensor called text_projection, which is of their model. A direction whose singular value is 0 to
float64's precision is one of many: it is left out, and counts in the mean.
"""

from __future__ import annotations

import numpy as np

from taskstore.merging.methods.api import F32, Info, Method, Vectors, Whole
from taskstore.merging.methods.input_products import F64
from taskstore.merging.methods.mean import mean
from taskstore.merging.methods.singular import SVD, floats_of, rank_of, svd


class Isotropic(Method):
    """What both methods share: matrices are merged whole, all else is the mean."""

    def merge(self, block: Vectors) -> F32:
        return mean(block.tau_SN, np.ones_like(block.weight_S), block.tensor)

    def wants_whole(self, tensor: str, shape: tuple[int, ...]) -> bool:
        return len(shape) == 2

    def matrix_bytes(self, shape: tuple[int, int], tasks: int) -> int:
        return 8 * floats_of(shape)


class IsoC(Isotropic):
    INFO = Info(
        "Iso-C",
        "sum_t tau_t = U S V^T, tau = mean(S) U V^T",
        "Marczak et al., arXiv 2502.04959",
        packs=False,
        whole=True,
        memory=SVD,
    )

    def merge_whole(self, matrix: Whole) -> F32:
        u, s, vt = svd(summed(matrix))
        k = rank_of(s, max(matrix.shape))
        return np.ascontiguousarray(s.mean() * (u[:, :k] @ vt[:k]), np.float32)


def summed(matrix: Whole) -> F64:
    """sum_t tau_t, float64 (O, I)."""
    total_OI = np.zeros(matrix.shape)
    for s in range(len(matrix.rows)):
        total_OI += matrix.read(s)
    return total_OI
