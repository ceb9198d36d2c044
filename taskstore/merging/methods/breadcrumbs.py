"""`breadcrumbs`: leave out the largest and the smallest values of each tensor's task vector.

    of n values the t = min(int(n gamma), n - int(n keep)) largest magnitudes go, and of the
    smallest as many as leave int(n keep)

Then another method merges, usually the sum (Davari and Belilovsky, arXiv 2312.06795: layer by
layer). gamma is the paper's beta. Values that are equal at a threshold all stay below, and all go
above.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from taskstore.merging.methods.api import F32, Info, Method, Option, Scan, Vectors, Whole
from taskstore.merging.methods.lengths import RESCALE, lost_lengths
from taskstore.merging.methods.over import Before, value_of
from taskstore.merging.methods.trim import Trim


class Breadcrumbs(Before):
    INFO = Info(
        "Model Breadcrumbs",
        "drop the gamma largest and the 1 - keep - gamma smallest of each tensor; then another "
        "method",
        "Davari and Belilovsky, arXiv 2312.06795",
        (
            Option("keep", 0.9, 1e-6, 1, "share of each tensor's values that is kept"),
            Option("gamma", 0.01, 0, 1, "share that is dropped, largest first"),
            replace(RESCALE, name="restore"),
        ),
        stage="before",
    )
    varied = ("keep", "gamma")
    own_passes = 2 * Trim.passes

    def __init__(self, inner: Method, **options: float) -> None:
        super().__init__(inner, **options)
        self._low, self._high = _Kept(self._values), _Cut(self._values)
        self._scales: dict[str, F32] = {}
        self.passes += int(self.options["restore"])

    def _look(self, scan: Scan) -> None:
        self._low.fit(scan)
        self._high.fit(scan)
        if self.options["restore"]:
            self._scales = lost_lengths(scan, self._trimmed)

    def _change(self, block: Vectors) -> Vectors:
        tau_SN = self._trimmed(block)
        if self._scales:
            tau_SN *= self._scales[block.tensor][block.rows, None]
        return replace(block, tau_SN=tau_SN)

    def _trimmed(self, block: Vectors) -> F32:
        low_S, high_S = self._low.thresholds(block), self._high.thresholds(block)
        cut_S = self._high.cut(block)
        rows = zip(block.tau_SN, low_S, high_S, cut_S, strict=True)
        return np.stack([_between(*row) for row in rows])

    def _change_task(self, tau_OI: F32, matrix: Whole, s: int) -> F32:
        row, key = matrix.rows[s], matrix.tensor
        cut = self._high.count(tau_OI.size, row) > 0
        found = _between(tau_OI, self._low.of(key)[row], self._high.of(key)[row], cut)
        return found * self._scales[key][row] if self._scales else found


class _Kept(Trim):
    """Thresholds of what is kept and of what is cut above it."""

    def __init__(self, shares: dict[str, list[float]]) -> None:
        super().__init__(1, per_tensor=True)
        self._shares = shares

    def share(self, name: str, t: int) -> float:
        return value_of(self._shares[name], t)

    def count(self, d: int, t: int) -> int:
        """How many of the largest are cut."""
        return min(int(d * self.share("gamma", t)), d - int(d * self.share("keep", t)))

    def _kept(self, d: int, t: int) -> int:
        return int(d * self.share("keep", t)) + self.count(d, t)


class _Cut(_Kept):
    """Thresholds of what is cut above."""

    def _kept(self, d: int, t: int) -> int:
        return self.count(d, t)

    def cut(self, block: Vectors) -> list[bool]:
        """Whether anything is, for the tasks of a block."""
        size = int(np.prod(block.shape))
        return [self.count(size, int(t)) > 0 for t in block.rows]


def _between(tau: F32, low: np.float32, high: np.float32, cut: bool) -> F32:
    magnitude = np.abs(tau)
    kept = magnitude >= low
    if cut:
        kept &= magnitude < high
    found: F32 = tau * kept
    return found
