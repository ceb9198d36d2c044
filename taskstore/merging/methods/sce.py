"""`sce`: select, calculate, erase, matrix by matrix (Wan et al., FuseChat, arXiv 2408.07990).

    1. select     keep the int(n `topk`) elements whose variance over the tasks is largest
    2. calculate  w_s = mean of tau_s^2 over the tensor, over the sum of all tasks' means
    3. erase      gamma = sign of sum_s tau_s; values of the other sign are 0
    4. merge      tau = sum_s w_s tau_s / sum of the w_s of the values that stay

Thresholds are exact, as those of `ties`; elements at the threshold all stay. Where the sum is 0 the
sign is positive.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from taskstore.merging.methods.api import F32, Info, Method, Option, Scan, Unkept, Vectors
from taskstore.merging.methods.over import of_changed
from taskstore.merging.methods.trim import Trim


class Sce(Method):
    INFO = Info(
        "SCE",
        "of the topk elements of largest variance: w_s ~ mean tau_s^2; mean of the values of the "
        "sum's sign",
        "Wan et al., arXiv 2408.07990",
        (Option("topk", 1, 1e-6, 1, "share of elements that is selected, by variance"),),
        packs=False,
        weights=False,
    )

    def __init__(self, **options: float) -> None:
        super().__init__(**options)
        density = self.options["topk"]
        self._trim = Trim(density, per_tensor=True) if density < 1 else None
        self.passes = 1 + (Trim.passes if self._trim else 0)

    def fit(self, scan: Scan) -> None:
        if self._trim:
            self._trim.fit(Variances(scan))
        squares: dict[str, Any] = {}
        for tensor, square_S in scan.blocks(partial(_squares, self._trim)):
            squares[tensor] = squares.get(tensor, 0) + square_S
        self._weights = {n: _shares(square_S) for n, square_S in squares.items()}

    def merge(self, block: Vectors) -> F32:
        tau_SN, weight_S = _selected(self._trim, block), self._weights[block.tensor]
        up_N = tau_SN.sum(0) >= 0
        agree_SN = np.where(up_N, tau_SN > 0, tau_SN < 0)
        merged_N, total_N = np.zeros((2, block.w0_N.size), np.float32)
        for tau_N, agree_N, weight in zip(tau_SN, agree_SN, weight_S, strict=True):
            merged_N += weight * tau_N * agree_N
            total_N += weight * agree_N
        return np.divide(merged_N, total_N, out=np.zeros_like(merged_N), where=total_N > 0)


@dataclass(frozen=True)
class Variances(Unkept):
    """A scan over one vector: the variance of each element over the tasks."""

    scan: Scan

    @property
    def names(self) -> list[str]:
        return ["variance"]

    @property
    def shapes(self) -> Any:
        return self.scan.shapes

    def whole(self, tensor: str) -> Any:
        raise AssertionError(f"{tensor}: variances are counted block by block")

    def blocks(self, function: Callable[[Vectors], Any]) -> Iterator[tuple[str, Any]]:
        return self.scan.blocks(partial(of_changed, variance, function))


def variance(block: Vectors) -> Vectors:
    """The block with one vector, (1, N): the variance over its S tasks."""
    one = block.tau_SN.var(axis=0, dtype=np.float64).astype(np.float32)[None]
    return replace(block, tau_SN=one, rows=np.zeros(1, np.intp), weight_S=np.ones(1, np.float32))


def _selected(trim: Trim | None, block: Vectors) -> F32:
    if trim is None:
        return block.tau_SN
    (one,) = (changed := variance(block)).tau_SN
    kept: F32 = block.tau_SN * (one >= trim.thresholds(changed)[0])
    return kept


def _squares(trim: Trim | None, block: Vectors) -> Any:
    """Sums of squares of what is selected, float64 (S,)."""
    tau_SN = _selected(trim, block)
    return np.einsum("sn,sn->s", tau_SN, tau_SN, dtype=np.float64)


def _shares(square_S: Any) -> F32:
    total = square_S.sum()
    size = len(square_S)
    shares: F32 = (square_S / total if total else np.full(size, 1 / size)).astype(np.float32)
    return shares
