"""`passthrough`: one model as it is, times a number.

    theta = scale theta_1,   tau = tau_1 + (scale - 1) (theta_0 + tau_1)

A scale of 1 is the model itself. Recipes put layers of several models together with it, and a scale
of 0 for what a layer adds (o_proj, down_proj) makes a copy of it that does nothing.
"""

from __future__ import annotations

import numpy as np

from taskstore.merging.methods.api import F32, Info, Method, Option, Vectors


class Passthrough(Method):
    INFO = Info(
        "Passthrough",
        "theta = scale theta_1",
        "Goddard et al., MergeKit, arXiv 2403.13257",
        (Option("scale", 1, -1e6, 1e6, "factor of the model's weights"),),
        most=1,
        packs=False,
        weights=False,
    )

    def merge(self, block: Vectors) -> F32:
        tau_N: F32 = block.tau_SN[0].copy()
        more = np.float32(self.options["scale"] - 1)
        return tau_N + more * (block.theta0_N + tau_N) if more else tau_N
