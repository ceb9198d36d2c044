"""`actmat`: a layer that answers all tasks' inputs; a task's inputs are its own vector's rows.

    tau = (sum_t tau_t C_t) (sum_t C_t)^-1,   C_t = tau_t^T tau_t            (arXiv 2604.01329)

This is `wudi` without the norm in C_t, so a task with a long vector counts for more; the sum
holds it as there. Embeddings, an output head and tensors that are no matrices are their mean.
Checked against an implementation of others, not of the authors.
"""

from __future__ import annotations

import re

import numpy as np

from taskstore.merging.methods.api import F32, Info, Method, Vectors, Whole
from taskstore.merging.methods.input_products import GRAM, gram_bytes, solve
from taskstore.merging.methods.mean import mean
from taskstore.merging.methods.wudi import RIDGE, sums

TOKENS = re.compile(r"(^|[._])(embed\w*|\w*embeddings?|wte|wpe|shared|lm_head)([._]|$)")


class ActMat(Method):
    INFO = Info(
        "ACTMat",
        "tau = (sum_t tau_t C_t) (sum_t C_t)^-1, C_t = tau_t^T tau_t, per layer",
        "arXiv 2604.01329",
        (RIDGE,),
        whole=True,
        memory=GRAM,
    )

    def merge(self, block: Vectors) -> F32:
        return mean(block.tau_SN, np.ones_like(block.weight_S), block.tensor)

    def wants_whole(self, tensor: str, shape: tuple[int, ...]) -> bool:
        return len(shape) == 2 and not TOKENS.search(tensor)

    def merge_whole(self, matrix: Whole) -> F32:
        wanted_OI, gram_II, sum_OI = sums(matrix, normed=False)
        merged_OI = solve(wanted_OI, gram_II, self.options["ridge"], sum_OI)
        return np.ascontiguousarray(merged_OI, np.float32)

    def matrix_bytes(self, shape: tuple[int, int], tasks: int) -> int:
        return gram_bytes(shape)
