"""`linear`: a point on the straight path from the base to one fine-tune.

    theta(a) = (1 - a) theta_0 + a theta_1 = theta_0 + a tau_1        (Goodfellow et al., 1412.6544)

The position a is `alpha`. It may be below 0 or above 1: the path goes on.
"""

from __future__ import annotations

from taskstore.merging.methods.api import F32, Info, Method, Vectors


class Linear(Method):
    INFO = Info(
        "Linear interpolation",
        "theta(a) = (1 - a) theta_0 + a theta_1, a = alpha",
        "Goodfellow et al., arXiv 1412.6544",
        grid=tuple(i / 10 for i in range(11)),
        most=1,
        packs=False,
    )

    def merge(self, block: Vectors) -> F32:
        merged_N: F32 = block.tau_SN[0].copy()
        return merged_N
