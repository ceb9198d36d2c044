"""`trust_region`: leaves out the weights in which tasks stand in each other's way, before a merge.

    Omega = sum_(s != t) |tau_s| |tau_t| = (sum_t |tau_t|)^2 - sum_t tau_t^2, per weight
    kept where Omega is within its `quantile` over the flat vector           (arXiv 2501.15065)

This is the zero-shot form of task arithmetic in the trust region, in which |tau_t| stands for the
gradient that it would take data to know. With `sum` the authors take alpha 0.3. The quantile is the
least Omega (float32) that the share of the weights does not exceed, counted exactly in two passes;
what equals it is kept, so that a model whose tasks hardly meet is left as it is. The authors'
quantile lies between two values, which moves one weight of a model at most.

Legend: S = tasks that have these elements, N = elements of a block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from taskstore.merging.methods.api import F32, Info, Option, Scan, Unkept, Vectors, Whole, pieces
from taskstore.merging.methods.over import Before
from taskstore.merging.methods.trim import Trim
from taskstore.merging.scratch import Scratch

_scratch = Scratch()


class TrustRegion(Before):
    INFO = Info(
        "Trust region",
        "tau_t where (sum_t |tau_t|)^2 - sum_t tau_t^2 is within its quantile; then a merge",
        "Sun et al., arXiv 2501.15065",
        (Option("quantile", 0.99, 0, 1, "share of the weights that is kept"),),
        least=2,
        stage="before",
    )
    own_passes = Trim.passes

    def _look(self, scan: Scan) -> None:
        least = Trim(max(1e-12, 1 - self.options["quantile"]), per_tensor=False)
        least.fit(Conflicts(scan))
        self._most = float(least.flat()[0])

    def _change(self, block: Vectors) -> Vectors:
        out_SN = _scratch.rows(*block.tau_SN.shape)
        trusted(block.tau_SN, conflict(block.tau_SN), np.float32(self._most), out_SN)
        return replace(block, tau_SN=out_SN)

    def change_whole(self, matrix: Whole) -> Whole:
        """The mask is made of all tasks' vectors, which are read one by one."""
        sum_OI, squares_OI = np.zeros(matrix.shape, np.float32), np.zeros(matrix.shape, np.float32)
        for s in range(len(matrix.rows)):
            tau_OI = matrix.read(s)
            sum_OI += np.abs(tau_OI)
            squares_OI += tau_OI * tau_OI
        left_OI = np.maximum(sum_OI * sum_OI - squares_OI, 0) > np.float32(self._most)
        changed = super().change_whole(matrix)

        def read(s: int) -> F32:
            tau_OI = matrix.read(s)
            tau_OI[left_OI] = 0
            return tau_OI

        return replace(changed, read=read)

    def matrix_bytes(self, shape: tuple[int, int], tasks: int) -> int:
        rows, columns = shape
        return super().matrix_bytes(shape, tasks) + 16 * rows * columns


@dataclass(frozen=True)
class Conflicts(Unkept):
    """A scan of one vector, Omega."""

    scan: Scan

    @property
    def names(self) -> list[str]:
        return ["Omega"]

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return self.scan.shapes

    def whole(self, tensor: str) -> Whole:
        raise NotImplementedError

    def blocks(self, function: Callable[[Vectors], Any]) -> Iterator[tuple[str, Any]]:
        return self.scan.blocks(partial(_of_conflicts, function))


def _of_conflicts(function: Callable[[Vectors], Any], block: Vectors) -> Any:
    omega_1N = conflict(block.tau_SN)[None]
    return function(replace(block, tau_SN=omega_1N, rows=np.zeros(1, np.intp)))


def conflict(tau_SN: F32) -> F32:
    """Omega of a block, float32 (N,)."""
    omega_N = np.zeros(tau_SN.shape[1], np.float32)
    for part in pieces(omega_N.size):
        omega = omega_N[part]
        squares, own = np.zeros_like(omega), np.empty_like(omega)
        for tau in tau_SN[:, part]:
            omega += np.abs(tau, out=own)
            squares += np.multiply(tau, tau, out=own)
        omega *= omega
        omega -= squares
        np.maximum(omega, np.zeros_like(omega), out=omega)
    return omega_N


def trusted(tau_SN: F32, omega_N: F32, most: np.float32, out_SN: F32) -> None:
    """Write the vectors to `out_SN`, 0 where Omega is above `most`."""
    kept_N = -(omega_N <= most).astype(np.int32)  # all bits or none
    np.bitwise_and(tau_SN.view(np.int32), kept_N, out=out_SN.view(np.int32))
