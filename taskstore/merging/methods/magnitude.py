"""`magnitude`: the sum of the largest values of each task vector.

    tau = sum_t tau_t [|tau_t| >= its threshold],  the largest K = `density` of the flat vector

TALL-masks are compared with this baseline (Wang et al., arXiv 2405.07813; in the authors' code
`sum` with k below 100). Thresholds are exact, and ties at them are kept: see `methods.trim`.
"""

from __future__ import annotations

import numpy as np

from taskstore.merging.methods.api import F32, Info, Method, Scan, Vectors
from taskstore.merging.methods.sum import add_up
from taskstore.merging.methods.trim import DENSITY, PER_TENSOR, Trim


class Magnitude(Method):
    INFO = Info(
        "Magnitude",
        "tau = sum_t tau_t where |tau_t| is among the largest K of its task",
        "Wang et al., arXiv 2405.07813",
        (DENSITY, PER_TENSOR),
    )
    passes = Trim.passes

    def __init__(self, **options: float) -> None:
        super().__init__(**options)
        self._trim = Trim(self.options["density"], per_tensor=bool(self.options["per_tensor"]))

    def fit(self, scan: Scan) -> None:
        self._trim.fit(scan)

    def merge(self, block: Vectors) -> F32:
        return add_up(block.tau_SN, np.ones_like(block.weight_S), self._trim.thresholds(block))
