"""`iso_cts`: `iso_c` with directions of each task beside the common ones.

    sum_t tau_t = U S V^T; the first c directions are common       (arXiv 2502.04959)
    tau_t - U_c U_c^T tau_t = U_t S_t V_t^T; the first (k - c) / T of each task join them
    U and V are made orthonormal (as in `tsv`), tau = mean(all their S) U V^T

k = min(O, I), c = `common` of it, so that T divides the rest. Checked against the authors' code. A
direction whose singular value is 0 to float64's precision is one of many: it is left out, and
counts in the mean. A direction that the orthonormal matrices do not reach is left out, too.
"""

from __future__ import annotations

import numpy as np

from taskstore.merging.methods.api import F32, Info, Option, Whole
from taskstore.merging.methods.iso_c import Isotropic, summed
from taskstore.merging.methods.singular import SVD
from taskstore.merging.methods.tsv import largest, orthonormal


class IsoCts(Isotropic):
    INFO = Info(
        "Iso-CTS",
        "common directions of sum_t tau_t and each task's own, orthonormal; tau = mean(S) U V^T",
        "Marczak et al., arXiv 2502.04959",
        (Option("common", 0.8, 0, 1, "share of the directions that is the sum's"),),
        packs=False,
        whole=True,
        memory=SVD,
    )

    def merge_whole(self, matrix: Whole) -> F32:
        k, tasks = min(matrix.shape), len(matrix.rows)
        per_task = round((k - int(k * self.options["common"])) / tasks)
        common = k - per_task * tasks
        if common < 0:  # rounded up past the rank
            per_task, common = k // tasks, k % tasks
        first = largest(summed(matrix), common)
        parts = []
        for s in range(tasks):
            own_OI = matrix.read(s).astype(np.float64)
            own_OI -= first[0] @ (first[0].T @ own_OI)
            parts.append(largest(own_OI, per_task))
        parts.append(first)
        u = orthonormal(np.concatenate([u for u, _, _ in parts], axis=1))
        v = orthonormal(np.concatenate([v for _, _, v in parts], axis=1))
        strength = sum(float(s.sum()) for _, s, _ in parts) / k
        return np.ascontiguousarray(strength * (u @ v.T), np.float32)
