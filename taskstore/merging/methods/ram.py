"""`ram`: reinforced agent merging, for models that reinforcement learning changed in few weights.

    active_t = |tau_t| > epsilon,   n = sum_t active_t               (Yuan et al., arXiv 2601.13572)
    tau = lambda_t tau_t where task t alone is active, the mean of the active ones where n > 1
    lambda_t = 1 + r clip(rho_t, 0, bound),   rho_t = its weights with n > 1 / those with n = 1

The mean would dilute what one task alone has learned; RAM+ (`r` above 0) makes that larger, the
more of a task's weights are averaged. Counts are over the whole model, or with `per_tensor` over
each tensor, as other tools do. A task with no weight of its own has no lambda.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from taskstore.merging.methods.api import F32, Info, Method, Option, Scan, Vectors


class Ram(Method):
    INFO = Info(
        "RAM, RAM+",
        "active: |tau_t| > epsilon; one active: (1 + r clip(shared / own, 0, bound)) tau_t; "
        "more: their mean",
        "Yuan et al., arXiv 2601.13572",
        (
            Option("epsilon", 1e-5, 0, 1e6, "size up to which a weight counts as unchanged"),
            Option("r", 0, 0, 1e3, "how much more a task's own weights count; RAM+: 0.1"),
            Option("bound", 0.2, 0, 1e6, "the largest ratio of shared to own weights that counts"),
            Option("per_tensor", 0, 0, 1, "1: ratios of each tensor by itself", whole=True),
        ),
        packs=False,
        weights=False,
    )

    def __init__(self, **options: float) -> None:
        super().__init__(**options)
        self.passes = int(self.options["r"] > 0)

    def fit(self, scan: Scan) -> None:
        self._scales: dict[str, F32] = {}
        if not self.passes:
            return
        counts: dict[str, Any] = {}
        for tensor, count_2T in scan.blocks(partial(self._counted, len(scan.names))):
            key = self._key(tensor)
            counts[key] = counts.get(key, 0) + count_2T
        for key, (own_T, shared_T) in counts.items():
            ratio_T = shared_T / np.maximum(own_T, 1)
            scale_T = 1 + self.options["r"] * np.minimum(ratio_T, self.options["bound"])
            self._scales[key] = scale_T.astype(np.float32)

    def merge(self, block: Vectors) -> F32:
        active_SN = self._active(block)
        count_N = active_SN.sum(0)
        merged_N = np.zeros(block.w0_N.size, np.float32)
        scale_T = self._scales.get(self._key(block.tensor))
        for tau_N, active_N, t in zip(block.tau_SN, active_SN, block.rows, strict=True):
            value_N = tau_N if scale_T is None else np.where(count_N == 1, scale_T[t], 1) * tau_N
            np.add(merged_N, value_N, out=merged_N, where=active_N)
        merged_N /= np.maximum(count_N, 1).astype(np.float32)
        return merged_N

    def _active(self, block: Vectors) -> Any:
        return np.abs(block.tau_SN) > np.float32(self.options["epsilon"])

    def _key(self, tensor: str) -> str:
        """Whose counts a tensor goes by: its own, or the whole model's."""
        return tensor if self.options["per_tensor"] else ""

    def _counted(self, tasks: int, block: Vectors) -> Any:
        """How many weights of a block a task has alone and with others, int64 (2, T)."""
        active_SN = self._active(block)
        alone_N = active_SN.sum(0) == 1
        count_2T = np.zeros((2, tasks), np.int64)
        count_2T[0, block.rows] = (active_SN & alone_N).sum(1)
        count_2T[1, block.rows] = (active_SN & ~alone_N).sum(1)
        return count_2T
