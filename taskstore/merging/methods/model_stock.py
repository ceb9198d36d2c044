"""`model_stock`: the mean, pulled towards the base as far as the fine-tunes disagree.

    cos = mean of the pairwise cosines of the tau_t        per tensor, or per row (`by_row`)
    t   = S cos / (1 + (S - 1) cos),   tau = t mean_t tau_t        (Jang et al., arXiv 2403.19522)

Weights are equal, as in the paper. Four things it leaves open: a cos below 0 counts as 0, which
leaves the base, since vectors that point away from each other have no centre between them and the
base; two zero vectors have cosine 1; a zero vector and another one have cosine 0; one task alone
keeps its vector, t = 1.

Inner products are added up in float64 and t is rounded to float32, so the size of blocks does not
show in it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from taskstore.merging.methods.api import F32, Info, Method, Option, Scan, Vectors
from taskstore.merging.methods.mean import mean

Gram = NDArray[np.float64]
BLOCK = 8192  # elements that are widened to float64 at a time


class ModelStock(Method):
    INFO = Info(
        "Model Stock",
        "t = T cos / (1 + (T - 1) cos), cos = mean pairwise cosine; tau = t mean_t tau_t",
        "Jang et al., arXiv 2403.19522",
        (Option("by_row", 0, 0, 1, "1: a factor for each row of a matrix", whole=True),),
        least=2,
        packs=False,
        weights=False,
    )
    passes = 1

    def __init__(self, **options: float) -> None:
        super().__init__(**options)
        self.rows = bool(self.options["by_row"])

    def fit(self, scan: Scan) -> None:
        grams: dict[str, Gram] = {}
        for tensor, gram_SS in scan.blocks(_inner_products):
            grams[tensor] = grams.get(tensor, 0) + gram_SS
        self._ratios = {tensor: np.float32(ratio(gram)) for tensor, gram in grams.items()}

    def merge(self, block: Vectors) -> F32:
        mean_N = mean(block.tau_SN, np.ones_like(block.weight_S), block.tensor)
        if not self.rows or len(block.shape) < 2:
            return self._ratios[block.tensor] * mean_N
        wide_SRN = block.tau_SN.reshape(len(block.rows), -1, block.shape[-1]).astype(np.float64)
        gram_RSS = np.einsum("srn,trn->rst", wide_SRN, wide_SRN)
        ratio_R = np.array([ratio(gram_SS) for gram_SS in gram_RSS], np.float32)
        return mean_N * np.repeat(ratio_R, block.shape[-1])


def _inner_products(block: Vectors) -> Gram:
    """The vectors' inner products over a block, float64 (S, S)."""
    tasks, n = block.tau_SN.shape
    gram_SS = np.zeros((tasks, tasks))
    for start in range(0, n, BLOCK):
        wide = block.tau_SN[:, start : start + BLOCK].astype(np.float64)
        gram_SS += wide @ wide.T
    return gram_SS


def ratio(gram_SS: Gram) -> float:
    """t of one tensor, from the inner products of its S vectors, float64 (S, S)."""
    tasks = len(gram_SS)
    if tasks == 1:
        return 1.0
    norm_S = np.sqrt(gram_SS.diagonal())
    zero_S = norm_S == 0
    cos_SS = gram_SS / np.outer(norm_S + zero_S, norm_S + zero_S)
    cos_SS[np.outer(zero_S, zero_S)] = 1
    pairs = cos_SS[np.triu_indices(tasks, 1)]
    cos = min(1.0, max(0.0, float(pairs.mean())))
    return tasks * cos / (1 + (tasks - 1) * cos)
