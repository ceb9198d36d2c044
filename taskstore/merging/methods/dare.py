"""`dare`: drop task vectors' values at random and rescale the rest, then merge by another method.

    delta' = (1 - b) delta / (1 - p),   b ~ Bernoulli(p)        (Yu et al., arXiv 2311.03099)

The expectation of delta' is delta. p is 0.9 by default; the paper drops 90 % of a task vector and
more without loss. `seed` and the names of task and tensor alone decide which values are dropped
(`methods.philox`), so the result does not depend on blocks, workers or other tasks.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from taskstore.merging.methods import philox
from taskstore.merging.methods.api import F32, Info, Method, Option, Scan, Vectors, Whole
from taskstore.merging.methods.over import Before, value_of
from taskstore.merging.scratch import Scratch

_scratch = Scratch()


class Dare(Before):
    INFO = Info(
        "DARE",
        "delta' = (1 - b) delta / (1 - p), b ~ Bernoulli(p); then another method",
        "Yu et al., arXiv 2311.03099",
        (
            Option("p", 0.9, 0, 0.9999, "share of each task vector that is dropped"),
            Option("seed", 0, 0, 2**53, "another one drops others", whole=True),
        ),
        stage="before",
    )
    varied = ("p",)

    def __init__(self, inner: Method, **options: float) -> None:
        super().__init__(inner, **options)
        self._seed = int(self.options["seed"])

    def _look(self, scan: Scan) -> None:
        self._names = scan.names

    def _change_task(self, tau_OI: F32, matrix: Whole, s: int) -> F32:
        out_OI = np.empty(tau_OI.shape, np.float32)
        self._drop(tau_OI.reshape(-1), matrix.rows[s], matrix.tensor, 0, out_OI.reshape(-1))
        return out_OI

    def _change(self, block: Vectors) -> Vectors:
        out_SN = _scratch.rows(*block.tau_SN.shape)
        for s, row in enumerate(block.rows):
            self._drop(block.tau_SN[s], row, block.tensor, block.start, out_SN[s])
        return replace(block, tau_SN=out_SN)

    def _drop(self, tau_N: F32, row: int, tensor: str, start: int, out_N: F32) -> None:
        stream = philox.stream(self._seed, self._names[row], tensor)
        p = value_of(self._values["p"], row)
        below, kept = np.uint32(round(p * 2**32)), np.float32(1 - p)
        philox.drop(tau_N, stream, start, below, kept, out_N)
