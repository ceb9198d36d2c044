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

import numpy as np

from taskstore.merging.methods.api import BLOCK, F32, Info, Method, Option, Scan, Vectors, pieces
from taskstore.merging.methods.lengths import RESCALE, lost_lengths
from taskstore.merging.methods.trim import DENSITY, PER_TENSOR, Trim
from taskstore.native import sums


class Ties(Method):
    INFO = Info(
        "TIES",
        "trim to the largest K; gamma = sign of the sum; tau = mean of the values of that sign",
        "Yadav et al., arXiv 2306.01708",
        (
            DENSITY,
            Option("mean", 0, 0, 1, "1: mean of the chosen values, 0: their sum", whole=True),
            PER_TENSOR,
            RESCALE,
        ),
        merging={"mean": 1},
    )
    weighs = True
    passes = Trim.passes + 1

    def __init__(self, density: float = 0.2, **options: float) -> None:
        others = {name: options.get(name, 0) for name in ("mean", "per_tensor", "rescale")}
        self.options: Mapping[str, float] = {
            "density": density,
            **{name: value for name, value in others.items() if value},
        }
        self._mean, self._rescale = bool(others["mean"]), bool(others["rescale"])
        self._trim = Trim(density, per_tensor=bool(others["per_tensor"]))
        self.passes += self._rescale
        self._scales: Mapping[str, F32] = {}

    def vary(self, option: str, values: Sequence[float]) -> None:
        if option != "density":
            super().vary(option, values)
        self._trim.densities = values

    def fit(self, scan: Scan) -> None:
        """Two passes for the thresholds, a third for the sign where the vectors cancel."""
        self._trim.fit(scan)
        if self._rescale:
            self._scales = lost_lengths(scan, self._trimmed)
        sums = scan.blocks(self._signs_of)
        self._majority = np.float32(np.sign(sum(total for _, total in sums)))

    def merge(self, block: Vectors) -> F32:
        tau_SN, least_S = self._ready(block)
        return disjoint(tau_SN, least_S, block.weight_S, self._majority, self._mean)

    def _signs_of(self, block: Vectors) -> int:
        return signs(*self._ready(block), block.weight_S)

    def _ready(self, block: Vectors) -> tuple[F32, F32]:
        """The vectors, and what their values must reach to be kept."""
        if not self._scales:
            return block.tau_SN, self._trim.thresholds(block)
        scale_S = self._scales[block.tensor][block.rows]
        return self._trimmed(block) * scale_S[:, None], np.zeros_like(scale_S)

    def _trimmed(self, block: Vectors) -> F32:
        least_S = self._trim.thresholds(block)
        kept: F32 = block.tau_SN * (np.abs(block.tau_SN) >= least_S[:, None])
        return kept


def signs(tau_SN: F32, threshold_S: F32, weight_S: F32) -> int:
    """How many signs of the summed, trimmed vectors are +, less how many are -."""
    total, gamma_N = 0, np.empty(min(BLOCK, tau_SN.shape[1]), np.float32)
    for part in pieces(tau_SN.shape[1]):
        gamma = gamma_N[: part.stop - part.start]
        sums.weighted(tau_SN[:, part], weight_S, threshold_S, gamma)
        total += int(np.count_nonzero(gamma > 0)) - int(np.count_nonzero(gamma < 0))
    return total


def disjoint(tau_SN: F32, threshold_S: F32, weight_S: F32, majority: np.float32, mean: bool) -> F32:
    """Trim, elect and merge: sums or means of the values of gamma's sign, float32 (N,)."""
    merged_N = np.empty(tau_SN.shape[1], np.float32)
    for part in pieces(merged_N.size):
        tau, gamma = tau_SN[:, part], merged_N[part]
        sums.weighted(tau, weight_S, threshold_S, gamma)
        up = gamma >= 0 if majority > 0 else gamma > 0
        sums.of_sign(tau, weight_S, threshold_S, up, mean, gamma)
    return merged_N
