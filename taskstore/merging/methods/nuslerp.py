"""`nuslerp`: spherical interpolation of two task vectors.

    t = w_2 / (w_1 + w_2),   tau = slerp(t; tau_1, tau_2)      (mergekit's documentation)

per tensor or, of matrices, per row or per column (`by`). A tensor that one task has alone is its.
The interpolation of two models themselves, without a base, is `slerp` with this t.
"""

from __future__ import annotations

import numpy as np

from taskstore.errors import InputError
from taskstore.merging.methods.api import F32, Info, Whole
from taskstore.merging.methods.spherical import BY, PARALLEL, Spherical, Table, between, by_lines

STRAIGHT = 1 - PARALLEL


class NuSlerp(Spherical):
    INFO = Info(
        "NuSLERP",
        "t = w_2 / (w_1 + w_2); tau = slerp(t; tau_1, tau_2)",
        "Goddard et al., MergeKit, arXiv 2403.13257",
        (BY,),
        least=2,
        most=2,
        packs=False,
        whole=True,
        memory="with by=1 or 2 three matrices",
    )

    def wants_whole(self, tensor: str, shape: tuple[int, ...]) -> bool:
        return bool(self.options["by"]) and len(shape) == 2

    def matrix_bytes(self, shape: tuple[int, int], tasks: int) -> int:
        return 4 * shape[0] * shape[1] * (tasks + 2)

    def merge_whole(self, matrix: Whole) -> F32:
        axis = 1 if self.options["by"] == 1 else 0
        if matrix.rows.size == 1:
            return matrix.read(0)
        t = share(matrix.weight_S.astype(np.float64))
        return by_lines(matrix.read(0), matrix.read(1), axis, t, STRAIGHT)

    def _factors(self, table_PP: Table, weight_S: Table) -> Table:
        if weight_S.size == 1:
            return np.array([0.0, 1.0])
        t = share(weight_S)
        pair = between(t, table_PP[1, 1], table_PP[2, 2], table_PP[1, 2], STRAIGHT)
        return np.concatenate([[0.0], pair])


def share(weight_S: Table) -> float:
    """The second one's share; raises InputError for weights that add up to 0."""
    total = float(weight_S.sum())
    if abs(total) < 1e-12:
        raise InputError("the weights of nuslerp's two models add up to 0; give others")
    return float(weight_S[1]) / total
