"""`fisher`: a mean in which each weight counts by how much its task depends on it.

    tau = sum_t c_t F_t tau_t / sum_t c_t F_t,   c_t = w_t / |F_t|    (Matena & Raffel, 2111.09832)

F_t is the diagonal of the task's Fisher information and |F_t| its L2 norm over all tensors. The
norm is taken first; then values below `floor` are raised to it, as in the authors' code. Their code
raises only the values of a target model. No model is the target here, so all models' are raised.
An F_t of zeros throughout counts as `floor` everywhere.

Norms are added up in float64 and c_t is rounded to float32, so the size of blocks does not show.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from taskstore.merging.methods.api import F32, Info, Method, Option, Rows, Scan, Vectors, pieces
from taskstore.merging.methods.mean import check_positive


class Fisher(Method):
    INFO = Info(
        "Fisher",
        "tau = sum_t c_t F_t tau_t / sum_t c_t F_t, c_t = w_t / |F_t|",
        "Matena & Raffel, arXiv 2111.09832",
        (Option("floor", 1e-6, 1e-20, 1, "least value of a Fisher information"),),
        statistics=("fisher",),
    )
    weighs = True
    passes = 1

    def fit(self, scan: Scan) -> None:
        squares_T = np.zeros(len(scan.names))
        for _, (rows, squares_S) in scan.blocks(_squares):
            squares_T[rows] += squares_S
        self._norm_T = np.where(squares_T > 0, np.sqrt(squares_T), 1.0)

    def merge(self, block: Vectors) -> F32:
        check_positive(block.weight_S, block.tensor, "fisher")
        c_S = (block.weight_S / self._norm_T[block.rows]).astype(np.float32)
        c_S /= c_S.max()  # only ratios matter; large ones could overflow
        floor = np.float32(self.options["floor"])
        return fisher_mean(block.tau_SN, block.statistics["fisher"], c_S, floor)


def _squares(block: Vectors) -> tuple[Rows, NDArray[np.float64]]:
    fisher_SN = block.statistics["fisher"]
    return block.rows, np.einsum("sn,sn->s", fisher_SN, fisher_SN, dtype=np.float64)


def fisher_mean(tau_SN: F32, fisher_SN: F32, c_S: F32, floor: np.float32) -> F32:
    """sum_s c_s F_s tau_s / sum_s c_s F_s with F_s of `floor` and more, float32 (N,)."""
    merged_N = np.zeros(tau_SN.shape[1], np.float32)
    for part in pieces(merged_N.size):
        merged = merged_N[part]
        total, value = np.zeros_like(merged), np.empty_like(merged)
        least = np.full_like(merged, floor)
        for tau, fisher, c in zip(tau_SN[:, part], fisher_SN[:, part], c_S, strict=True):
            np.maximum(fisher, least, out=value)
            value *= c
            total += value
            value *= tau
            merged += value
        merged /= total
    return merged_N
