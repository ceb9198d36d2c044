"""`dare`: drop task vectors' values at random and rescale the rest, then merge by another method.

    delta' = (1 - b) delta / (1 - p),   b ~ Bernoulli(p)        (Yu et al., arXiv 2311.03099)

so that delta' is delta in expectation. p = 0.9 by default; the paper drops 90 % of a task vector
and more without loss. Which values are dropped follows from `seed` and the names of task and
tensor alone (`merge.philox`), so the result does not depend on blocks, workers or other tasks.

Legend: S = tasks that have these elements, N = elements.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from taskstore.merging.methods import philox
from taskstore.merging.methods.api import F32, Info, Method, Option, Scan, Vectors, Whole
from taskstore.merging.methods.changed import Changed


class Dare:
    INFO = Info(
        "DARE",
        "delta' = (1 - b) delta / (1 - p), b ~ Bernoulli(p); then another method",
        "Yu et al., arXiv 2311.03099",
        (
            Option("p", 0.9, 0, 0.9999, "share of each task vector that is dropped"),
            Option("seed", 0, 0, 2**53, "another one drops others", whole=True),
        ),
        over="sum",
        whole=True,
    )

    def __init__(self, inner: Method, p: float = 0.9, seed: float = 0) -> None:
        self._inner, self._seed = inner, int(seed)
        self._below, self._kept = np.uint32(round(p * 2**32)), np.float32(1 - p)
        self.options: Mapping[str, float] = {**inner.options, "p": p, "seed": int(seed)}
        self.weighs, self.one_sided, self.passes = inner.weighs, inner.one_sided, inner.passes

    @property
    def matrices(self) -> frozenset[str]:
        return self._inner.matrices

    @matrices.setter
    def matrices(self, tensors: frozenset[str]) -> None:
        self._inner.matrices = tensors

    def fit(self, scan: Scan) -> None:
        self._names = scan.names
        self._inner.fit(Changed(scan, self._dropped))

    def merge(self, block: Vectors) -> F32:
        return self._inner.merge(self._dropped(block))

    def wants_whole(self, tensor: str, shape: tuple[int, ...]) -> bool:
        return self._inner.wants_whole(tensor, shape)

    def merge_whole(self, matrix: Whole) -> F32:
        def read(s: int) -> F32:
            tau_OI = matrix.read(s)
            out_OI = np.empty(tau_OI.shape, np.float32)
            self._drop(tau_OI.reshape(-1), matrix.rows[s], matrix.tensor, 0, out_OI.reshape(-1))
            return out_OI

        return self._inner.merge_whole(replace(matrix, read=read))

    def _dropped(self, block: Vectors) -> Vectors:
        """The block with other vectors; its own stay as they are, masks may be made of them."""
        out_SN = _scratch(*block.tau_SN.shape)
        for s, row in enumerate(block.rows):
            self._drop(block.tau_SN[s], row, block.tensor, block.start, out_SN[s])
        return replace(block, tau_SN=out_SN)

    def _drop(self, tau_N: F32, row: int, tensor: str, start: int, out_N: F32) -> None:
        stream = philox.stream(self._seed, self._names[row], tensor)
        philox.drop(tau_N, stream, start, self._below, self._kept, out_N)


_local = threading.local()


def _scratch(tasks: int, n: int) -> F32:
    """(tasks, n), the thread's own; fresh pages for every block would cost as much as the rest."""
    if getattr(_local, "size", -1) < tasks * n:
        _local.size = tasks * n
        _local.memory = np.empty(_local.size, np.float32)
    memory: F32 = _local.memory
    return memory[: tasks * n].reshape(tasks, n)
