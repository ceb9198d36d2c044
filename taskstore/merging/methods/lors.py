"""`lors`: each task vector of low rank and sparse, then their sum.

    per matrix: tau_t = U S V^T, the first `rank` of its directions alone    (arXiv 2502.17380)
    per tensor: the `density` largest of what is left, all others 0
    tau = sum_t of these

From the paper's text: which shares of rank and of values are kept is tuned there, so half and half
here is ours. One value at least is kept. Values that equal the threshold are all kept.
"""

from __future__ import annotations

import numpy as np

from taskstore.merging.methods.api import F32, Info, Method, Option, Scan, Vectors, Whole
from taskstore.merging.methods.singular import SVD, floats_of
from taskstore.merging.methods.sum import add_up
from taskstore.merging.methods.trim import Trim
from taskstore.merging.methods.tsv import largest


class Lors(Method):
    INFO = Info(
        "LoRS",
        "tau = sum_t of the largest values of tau_t's first singular directions",
        "Zhao et al., arXiv 2502.17380",
        (
            Option("rank", 0.5, 1e-6, 1, "share of a matrix's singular directions that is kept"),
            Option("density", 0.5, 1e-6, 1, "share of the values that is kept, largest first"),
        ),
        whole=True,
        memory=SVD,
    )
    passes = Trim.passes

    def fit(self, scan: Scan) -> None:
        self._trim = Trim(self.options["density"], per_tensor=True)
        self._trim.fit(scan)

    def merge(self, block: Vectors) -> F32:
        return add_up(block.tau_SN, np.ones_like(block.weight_S), self._trim.thresholds(block))

    def wants_whole(self, tensor: str, shape: tuple[int, ...]) -> bool:
        return len(shape) == 2

    def merge_whole(self, matrix: Whole) -> F32:
        merged_OI = np.zeros(matrix.shape, np.float32)
        kept = max(1, round(self.options["rank"] * min(matrix.shape)))
        for s in range(len(matrix.rows)):
            u_OK, s_K, v_IK = largest(matrix.read(s).astype(np.float64), kept)
            low_OI = (u_OK * s_K) @ v_IK.T
            size = np.abs(low_OI)
            count = max(1, int(low_OI.size * self.options["density"]))
            least = np.partition(size, low_OI.size - count, axis=None)[low_OI.size - count]
            low_OI[size < least] = 0
            merged_OI += low_OI.astype(np.float32)
        return merged_OI

    def matrix_bytes(self, shape: tuple[int, int], tasks: int) -> int:
        return 8 * floats_of(shape)
