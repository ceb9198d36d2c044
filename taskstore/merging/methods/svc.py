"""`svc`: a merged matrix whose directions are shortened where the tasks' vectors add up in them.

    merged tau = U S V^T                                                     (arXiv 2602.05536)
    a_r = u_r^T tau,  a_rt = u_r^T tau_t,  s_rt = <a_r, a_rt> / |a_rt|^2
    S_r *= T / sum_t max(c, s_rt)

c is `floor`: 0.1 in the paper for the sum, 1 for other methods. A task without any of u_r counts as
c. Tensors that are no matrices stay as they were merged. A weighted task's vector is weighted.
"""

from __future__ import annotations

import numpy as np

from taskstore.merging.methods.api import F32, Info, Option, Vectors, Whole
from taskstore.merging.methods.over import After
from taskstore.merging.methods.singular import SVD, floats_of, svd


class Svc(After):
    INFO = Info(
        "SVC",
        "tau = U S V^T, S_r *= T / sum_t max(c, <u_r^T tau, u_r^T tau_t> / |u_r^T tau_t|^2)",
        "arXiv 2602.05536",
        (Option("floor", 0.1, 1e-6, 1000, "c, least share of a task; 1 is for all but sums"),),
        stage="after",
        packs=False,
        whole=True,
        memory=SVD,
    )

    def _finish(self, block: Vectors, merged_N: F32) -> F32:
        return merged_N

    def _finishes(self, tensor: str, shape: tuple[int, ...]) -> bool:
        return len(shape) == 2

    def _finish_whole(self, matrix: Whole, merged_OI: F32) -> F32:
        if len(matrix.shape) != 2:
            return merged_OI
        u_OR, s_R, vt_RI = svd(merged_OI.astype(np.float64))
        floor, total_R = float(self.options["floor"]), np.zeros(s_R.size)
        for s in range(len(matrix.rows)):
            own_RI = u_OR.T @ matrix.read(s).astype(np.float64)
            if self.weighs:
                own_RI *= float(matrix.weight_S[s])
            square_R = np.einsum("ri,ri->r", own_RI, own_RI)
            inner_R = s_R * np.einsum("ri,ri->r", vt_RI, own_RI)
            ratio_R = np.divide(inner_R, square_R, out=np.full(s_R.size, floor), where=square_R > 0)
            total_R += np.maximum(floor, ratio_R)
        s_R *= len(matrix.rows) / total_R
        return np.ascontiguousarray((u_OR * s_R) @ vt_RI, np.float32)

    def matrix_bytes(self, shape: tuple[int, int], tasks: int) -> int:
        below = super().matrix_bytes(shape, tasks) if self._inner.wants_whole("", shape) else 0
        return max(below, 8 * floats_of(shape))
