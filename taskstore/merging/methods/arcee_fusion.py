"""`arcee_fusion`: of one fine-tune take only the changes that matter most, tensor by tensor.

    importance = |tau| KL(softmax(theta_1) || softmax(theta_0)), softmax and KL per row
    tau' = tau where importance > median + 1.5 (third quartile - first quartile), else 0

(mergekit's documentation and behaviour.) A row is of the tensor's last dimension. Quartiles are
values of the tensor, those at floor(q (n - 1)) from below; KL is added up in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskstore.merging.methods.api import F32, Info, Method, Scan, Unkept, Vectors
from taskstore.merging.methods.over import of_changed
from taskstore.merging.methods.trim import Trim

QUARTILES = (0.25, 0.5, 0.75)


class ArceeFusion(Method):
    INFO = Info(
        "Arcee Fusion",
        "tau' = tau where |tau| KL(theta_1 || theta_0) of its row > median + 1.5 IQR",
        "Goddard et al., MergeKit, arXiv 2403.13257",
        most=1,
        packs=False,
        weights=False,
    )
    passes = Trim.passes
    rows = True

    def fit(self, scan: Scan) -> None:
        self._quartiles = _Quartiles(1, per_tensor=True)
        self._quartiles.fit(Importances(scan))

    def merge(self, block: Vectors) -> F32:
        first, median, third = map(float, self._quartiles.of(block.tensor))
        taken_N = importance(block) > median + 1.5 * (third - first)
        merged_N: F32 = block.tau_SN[0] * taken_N
        return merged_N


class _Quartiles(Trim):
    """The three quartiles, as if they were of three tasks."""

    def _kept(self, d: int, t: int) -> int:
        return d - int(QUARTILES[t] * (d - 1))


@dataclass(frozen=True)
class Importances(Unkept):
    """A scan over three times the same vector: what each element matters."""

    scan: Scan

    @property
    def names(self) -> list[str]:
        return [str(q) for q in QUARTILES]

    @property
    def shapes(self) -> Any:
        return self.scan.shapes

    def whole(self, tensor: str) -> Any:
        raise AssertionError(f"{tensor}: importances are counted block by block")

    def blocks(self, function: Callable[[Vectors], Any]) -> Iterator[tuple[str, Any]]:
        return self.scan.blocks(partial(of_changed, _thrice, function))


def _thrice(block: Vectors) -> Vectors:
    same = np.repeat(importance(block)[None], 3, axis=0)
    return replace(block, tau_SN=same, rows=np.arange(3), weight_S=np.ones(3, np.float32))


def importance(block: Vectors) -> F32:
    """|tau| times the divergence of its row, float32 (N,)."""
    width = block.shape[-1] if block.shape else 1
    base = block.theta0_N.reshape(-1, width).astype(np.float64)
    tau = block.tau_SN[0].reshape(-1, width)
    ours, theirs = _log_softmax(base + tau), _log_softmax(base)
    divergence = np.maximum((np.exp(ours) * (ours - theirs)).sum(1, keepdims=True), 0)
    found: F32 = (np.abs(tau) * divergence).astype(np.float32).reshape(-1)
    return found


def _log_softmax(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    rows = rows - rows.max(1, keepdims=True)
    found: NDArray[np.float64] = rows - np.log(np.exp(rows).sum(1, keepdims=True))
    return found
