"""`ties`: trim, elect signs, disjoint merge (Yadav et al., arXiv 2306.01708).

    1. trim      per task keep the largest K = `density` of its flat vector's magnitudes
    2. elect     gamma = sign of the sum of the trimmed vectors; if that is 0, the sign of the sum
                 of all signs of the model
    3. merge     mean of the trimmed values whose sign is gamma (of the negative ones if gamma is
                 0), or their sum, which TALL-masks are published with

Checked against the authors' code. A task's weight multiplies its values in steps 2 and 3; the mean
divides by the weights of the values that it takes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from taskstore.kernels.jit import jit
from taskstore.merging.methods.api import BLOCK, F32, Info, Method, Option, Scan, Vectors
from taskstore.merging.methods.trim import DENSITY, PER_TENSOR, Trim


class Ties(Method):
    INFO = Info(
        "TIES",
        "trim to the largest K; gamma = sign of the sum; tau = mean of the values of that sign",
        "Yadav et al., arXiv 2306.01708",
        (
            DENSITY,
            Option("mean", 0, 0, 1, "1: mean of the chosen values, 0: their sum", whole=True),
            PER_TENSOR,
        ),
        merging={"mean": 1},
    )
    weighs = True
    passes = Trim.passes + 1

    def __init__(self, density: float = 0.2, mean: float = 0, per_tensor: float = 0) -> None:
        others = {"mean": mean, "per_tensor": per_tensor}
        self.options: Mapping[str, float] = {
            "density": density,
            **{name: value for name, value in others.items() if value},
        }
        self._mean, self._trim = bool(mean), Trim(density, per_tensor=bool(per_tensor))

    def vary(self, option: str, values: Sequence[float]) -> None:
        if option != "density":
            super().vary(option, values)
        self._trim.densities = values

    def fit(self, scan: Scan) -> None:
        """Two passes for the thresholds, a third for the sign where the vectors cancel."""
        self._trim.fit(scan)
        sums = scan.blocks(partial(_signs_of, self._trim))
        self._majority = np.float32(np.sign(sum(total for _, total in sums)))

    def merge(self, block: Vectors) -> F32:
        least_S = self._trim.thresholds(block)
        return disjoint(block.tau_SN, least_S, block.weight_S, self._majority, self._mean)


def _signs_of(trim: Trim, block: Vectors) -> int:
    return signs(block.tau_SN, trim.thresholds(block), block.weight_S)


@jit
def signs(tau_SN: F32, threshold_S: F32, weight_S: F32) -> int:
    """Sum over elements of the sign of the sum of trimmed values."""
    total = 0
    gamma = np.empty(BLOCK, np.float32)
    for start in range(0, tau_SN.shape[1], BLOCK):
        size = min(BLOCK, tau_SN.shape[1] - start)
        _elect(tau_SN, start, size, threshold_S, weight_S, gamma)
        for i in range(size):
            total += int(gamma[i] > 0) - int(gamma[i] < 0)
    return total


@jit
def disjoint(tau_SN: F32, threshold_S: F32, weight_S: F32, majority: np.float32, mean: bool) -> F32:
    """Trim, elect and merge, block by block.

    Values are multiplied by gamma, so those of its sign are the positive ones. That takes a maximum
    and selects, which are vectorised; a choice by several conditions is not.
    """
    merged_N = np.zeros(tau_SN.shape[1], np.float32)
    gamma, weight = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    chosen = np.empty(BLOCK, np.float32)
    for start in range(0, tau_SN.shape[1], BLOCK):
        size = min(BLOCK, tau_SN.shape[1] - start)
        merged = merged_N[start : start + size]
        _elect(tau_SN, start, size, threshold_S, weight_S, gamma)
        for i in range(size):
            side = majority if gamma[i] == 0 else gamma[i]
            gamma[i] = np.float32(1) if side > 0 else np.float32(-1)
        weight[:] = np.float32(0)
        for s in range(tau_SN.shape[0]):
            tau, least, w = tau_SN[s, start : start + size], threshold_S[s], weight_S[s]
            for i in range(size):
                value = w * tau[i] * gamma[i]
                kept = value if abs(tau[i]) >= least else np.float32(0)
                chosen[i] = max(kept, np.float32(0))
                merged[i] += chosen[i]
            if mean:
                for i in range(size):
                    weight[i] += abs(w) if chosen[i] > 0 else np.float32(0)
        if mean:
            for i in range(size):
                merged[i] /= weight[i] if weight[i] > 0 else np.float32(1)
        for i in range(size):
            merged[i] = merged[i] * gamma[i] + np.float32(0)  # no -0
    return merged_N


@jit
def _elect(tau_SN: F32, start: int, size: int, threshold_S: F32, weight_S: F32, gamma: F32) -> None:
    """Sums of the trimmed, weighted vectors."""
    gamma[:] = np.float32(0)
    for s in range(tau_SN.shape[0]):
        tau, least, w = tau_SN[s, start : start + size], threshold_S[s], weight_S[s]
        for i in range(size):
            value = w * tau[i]
            gamma[i] += value if abs(tau[i]) >= least else np.float32(0)
