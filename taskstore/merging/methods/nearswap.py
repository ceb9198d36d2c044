"""`nearswap`: the fine-tune's weights where they are near the base's, and no further than `t` away.

    theta = (1 - a) theta_0 + a theta_1,   a = min(1, t / |theta_1 - theta_0|)

so tau is tau_1 cut to [-t, t], element by element (mergekit's documentation; alchemonaut's
QuartetAnemoi-70B-t0.0001).
"""

from __future__ import annotations

import numpy as np

from taskstore.merging.methods.api import F32, Info, Method, Option, Vectors


class NearSwap(Method):
    INFO = Info(
        "Nearswap",
        "tau = tau_1 cut to [-t, t]: a = min(1, t / |tau_1|)",
        "alchemonaut, QuartetAnemoi-70B-t0.0001; as in MergeKit, arXiv 2403.13257",
        (Option("t", 1e-4, 0, 1e6, "how far a weight may go from the base's"),),
        most=1,
        packs=False,
    )

    def merge(self, block: Vectors) -> F32:
        t = np.float32(self.options["t"])
        merged_N: F32 = np.clip(block.tau_SN[0], -t, t)
        return merged_N
