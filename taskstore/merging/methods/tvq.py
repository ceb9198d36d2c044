"""`tvq`: task vectors rounded to 2^bits even steps per tensor, before a merge.

    s = (max - min) / (2^b - 1), z = round(-min / s)                         (arXiv 2503.06921)
    q = clip(round(tau / s) + z, 0, 2^b - 1), tau' = s (q - z)

The paper stores vectors so; as a filter, 3 bits make the merge of several methods better there:
small values go to 0. From the paper's text. A tensor of one value throughout stays as it is.
Arithmetic is float32, halves go to the even step.

Legend: S = tasks that have these elements, T = all tasks, N = elements of a block.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from taskstore.merging.methods.api import F32, Info, Option, Rows, Scan, Vectors, Whole
from taskstore.merging.methods.over import Before
from taskstore.merging.scratch import Scratch
from taskstore.native import elements

_scratch = Scratch()


class Tvq(Before):
    INFO = Info(
        "Task vector quantization",
        "tau' = s (clip(round(tau / s) + z, 0, 2^b - 1) - z), s = (max - min) / (2^b - 1); "
        "then a merge",
        "Kim et al., arXiv 2503.06921",
        (Option("bits", 3, 1, 16, "of a value", whole=True),),
        stage="before",
    )
    own_passes = 1

    def _look(self, scan: Scan) -> None:
        """The ends of every task's every tensor."""
        self._ends: dict[str, tuple[F32, F32]] = {}
        tasks = len(scan.names)
        for tensor, (rows, low_S, high_S) in scan.blocks(_ends_of):
            low_T, high_T = self._ends.setdefault(
                tensor, (np.full(tasks, np.inf, "f4"), np.full(tasks, -np.inf, "f4"))
            )
            low_T[rows] = np.minimum(low_T[rows], low_S)
            high_T[rows] = np.maximum(high_T[rows], high_S)

    def _change(self, block: Vectors) -> Vectors:
        out_SN = _scratch.rows(*block.tau_SN.shape)
        for tau_N, row, out_N in zip(block.tau_SN, block.rows, out_SN, strict=True):
            self._round(tau_N, block.tensor, int(row), out_N)
        return replace(block, tau_SN=out_SN)

    def _change_task(self, tau_OI: F32, matrix: Whole, s: int) -> F32:
        out_OI = np.empty(tau_OI.shape, np.float32)
        self._round(tau_OI.reshape(-1), matrix.tensor, int(matrix.rows[s]), out_OI.reshape(-1))
        return out_OI

    def _round(self, tau_N: F32, tensor: str, row: int, out_N: F32) -> None:
        low_T, high_T = self._ends[tensor]
        low, high = float(low_T[row]), float(high_T[row])
        top = 2.0 ** self.options["bits"] - 1
        step = np.float32((high - low) / top)
        if step == 0:
            out_N[:] = tau_N
            return
        zero = np.float32(np.round(-low / float(step)))
        elements.even_steps(np.ascontiguousarray(tau_N), float(step), float(zero), top, out_N)


def _ends_of(block: Vectors) -> tuple[Rows, F32, F32]:
    return block.rows, block.tau_SN.min(1), block.tau_SN.max(1)
