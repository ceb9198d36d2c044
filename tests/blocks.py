"""Task vectors as merge methods see them: a matrix in memory, in blocks of any size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskstore.merge import Vectors, make

F32 = NDArray[np.float32]


class Flat:
    """A scan over a (T, d) matrix that every task has whole."""

    def __init__(self, tau_TN: F32, block: int) -> None:
        self.tau_TN, self.block = tau_TN, block
        self.rows = np.arange(tau_TN.shape[0])

    @property
    def names(self) -> list[str]:
        return [f"task{t}" for t in range(len(self.tau_TN))]

    def elements(self) -> list[int]:
        return [self.tau_TN.shape[1]] * len(self.tau_TN)

    def slices(self) -> Iterator[Vectors]:
        for start in range(0, self.tau_TN.shape[1], self.block):
            yield vectors(self.tau_TN[:, start : start + self.block], self.rows, start)

    def blocks(self, function: Callable[[Vectors], Any]) -> Iterator[tuple[str, Any]]:
        for block in self.slices():
            yield block.tensor, function(block)


def vectors(tau_SN: F32, rows: NDArray[np.intp], start: int = 0, **changes: Any) -> Vectors:
    """A block of a tensor "w" whose base is zero, in fp32."""
    n = tau_SN.shape[1]
    block = Vectors(
        tensor="w",
        shape=(start + n,),
        dtype="F32",
        start=start,
        w0_N=np.zeros(n, np.uint32),
        theta0_N=np.zeros(n, np.float32),
        tau_SN=np.ascontiguousarray(tau_SN),
        rows=rows,
        weight_S=np.ones(rows.size, np.float32),
        statistics={},
    )
    return replace(block, **changes)


def merge(name: str, tau_TN: F32, block: int = 1000, **options: float) -> F32:
    method = make(name, options)
    scan = Flat(tau_TN, block)
    method.fit(scan)
    return np.concatenate([method.merge(part) for part in scan.slices()])
