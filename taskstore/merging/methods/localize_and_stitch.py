"""`localize_and_stitch`: the mean of the tasks that have a weight among their largest.

    m_t = |tau_t| is among the largest `density` of its flat vector          (arXiv 2408.13656)
    tau = sum_t m_t tau_t / sum_t m_t, 0 where no task has it

This is the dataless form, which is scaled by nothing. The authors keep 5 % for encoders and 10 %
for language models. Thresholds are exact, and ties at them are kept: see `methods.trim`.
"""

from __future__ import annotations

import numpy as np

from taskstore.merging.methods.api import F32, Info, Method, Option, Scan, Vectors
from taskstore.merging.methods.trim import PER_TENSOR, Trim
from taskstore.native import sums


class LocalizeAndStitch(Method):
    INFO = Info(
        "Localize-and-Stitch, dataless",
        "m_t: the largest of |tau_t|; tau = sum_t m_t tau_t / sum_t m_t",
        "He et al., arXiv 2408.13656",
        (
            Option(
                "density", 0.05, 1e-6, 1, "share of each task vector that is kept; 0.1 for LLMs"
            ),
            PER_TENSOR,
        ),
    )
    passes = Trim.passes

    def fit(self, scan: Scan) -> None:
        self._trim = Trim(self.options["density"], per_tensor=bool(self.options["per_tensor"]))
        self._trim.fit(scan)

    def merge(self, block: Vectors) -> F32:
        return stitched(block.tau_SN, self._trim.thresholds(block))


def stitched(tau_SN: F32, least_S: F32) -> F32:
    """The mean, float32 (N,), of the values with |tau_s| >= least_s."""
    merged_N = np.empty(tau_SN.shape[1], np.float32)
    sums.mean(tau_SN, np.ones_like(least_S), least_S, merged_N)
    return merged_N
