"""One matrix of several tasks on the CPU: each row of activations by its own task's weights.

A task's weights are rebuilt a few rows at a time, bit for bit as a swap would leave them, and never
as a whole: W0 ^ (D & mask), and round(that + rest). Sums are float32. Their order is the same at
every level of the processor, but for bf16 where it multiplies pairs of bf16: there it is its own.

Legend: N = elements of a segment, M = rows of activations, R = rows and C = columns of the matrix,
G = groups of rows of activations, one a task; U = the dtype's unsigned integer view.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskstore.kernels.factored.low_rank import NONE
from taskstore.kernels.quantise import Quantised
from taskstore.native import mixed

U = NDArray[Any]
I32 = NDArray[np.int32]
BASE = -1  # a task's number is 0 or more
SLAB = 32  # rows that lie together in the order of a CPU's kernel
ITEMSIZE = {"BF16": 2, "F16": 2, "F32": 4}
_EMPTY = np.zeros((0, 0), np.float32)


@dataclass(frozen=True)
class Groups:
    """Rows by their tasks: order_M[ends_G[g - 1]:ends_G[g]] are those of tasks_G[g]."""

    order_M: I32
    ends_G: I32
    tasks_G: I32

    @classmethod
    def of(cls, tasks_M: I32) -> Groups:
        """Group rows by the number of each row's task."""
        order_M = np.argsort(tasks_M, kind="stable").astype(np.int32)
        tasks_G, counts_G = np.unique(tasks_M, return_counts=True)
        return cls(order_M, np.cumsum(counts_G).astype(np.int32), tasks_G.astype(np.int32))


class MixedMatrix:
    """W0, D, masks and rests of a matrix, which it refers to and does not copy.

    Arrays must be contiguous; a size that does not fit is a ValueError. Rows that no segment covers
    make it unusable.
    """

    def __init__(self, rows: int, columns: int, dtype: str) -> None:
        assert dtype in ITEMSIZE, dtype
        self.rows, self.columns, self.dtype = rows, columns, dtype
        self._native = mixed.Matrix(rows, columns, ITEMSIZE[dtype])

    def segment(self, w0_N: U, d_N: U | None = None, slabs: bool = False) -> int:
        """Add whole rows below those that are there; gives the segment's number.

        slabs   all rows, of 16 bits: SLAB at a time, [C / 2][rows][2], the masks' bits alike
        """
        found: int = self._native.segment(w0_N, w0_N[:0] if d_N is None else d_N, slabs)
        return found

    def mask(self, segment: int, task: int, bits_P: NDArray[np.uint8]) -> None:
        """A task's bits of a segment that has D, LSB first."""
        self._native.mask(segment, task, bits_P)

    def rest(self, segment: int, task: int, chunks: Sequence[Quantised]) -> None:
        """What a task adds to a segment, after its mask where it has one."""
        for chunk in chunks:
            rows, part = chunk.rows, chunk.low_rank or NONE
            given: tuple[Any, ...] = (
                *(chunk.n, chunk.symbols, chunk.table(), rows.steps(), rows.columns, rows.first),
                *(chunk.where_E, chunk.points.of(chunk.z_E)),
                *(part.left_RM, part.right_RN, part.shifts_R, part.scales()),
            )
            self._native.rest(segment, task, *given)

    def drop(self, task: int) -> None:
        """Forget a task, also one that has nothing here."""
        self._native.drop(task)

    def take(self, which_M: NDArray[np.int64], tasks_M: I32) -> U:
        """Rows of the matrix, each as a task has it, (M, C)."""
        out_MC = np.empty((len(which_M), self.columns), f"u{ITEMSIZE[self.dtype]}")
        self._native.take(self.dtype, which_M, tasks_M, out_MC)
        return out_MC

    def multiply(
        self,
        x_MC: U,
        groups: Groups,
        y_MR: U,
        bias_GR: NDArray[np.float32] | None = None,
        threads: int = 1,
    ) -> None:
        """y = round(x W_t^T + bias_t) of each row that a group has, bits of the dtype.

        Threads are those of the OpenMP that the process has; without one it is a single thread.
        """
        bias = _EMPTY if bias_GR is None else bias_GR
        spans = (groups.order_M, groups.ends_G, groups.tasks_G)
        self._native.multiply(self.dtype, x_MC, *spans, bias, y_MR, threads)
