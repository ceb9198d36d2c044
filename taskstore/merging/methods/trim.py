"""Thresholds that keep the largest values of a task vector, exact and out of core.

A task keeps |tau| >= the k-th smallest magnitude of its flat vector, k = d - int(d K), K = the
density. Ties at the threshold are all kept, as in the code of TIES (arXiv 2306.01708). The flat
vector is the whole model's. With `per_tensor` each tensor has its own, as in other tools, which
keep the int(d K) largest: k is then one more, and one value is kept if int(d K) is 0.

Two passes count the upper and then the lower 16 bits of the magnitudes. Memory holds nothing of the
model's size, and the threshold is right to the last bit.

Legend: B = 65,536 bins, one per value of 16 bits.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from taskstore.merging.methods.api import F32, Option, Rows, Scan, Vectors
from taskstore.native import elements

Counts = NDArray[np.int64]
Uppers = NDArray[np.uint32]
DENSITY = Option("density", 0.2, 1e-6, 1, "share of each task vector that is kept, largest first")
PER_TENSOR = Option("per_tensor", 0, 0, 1, "1: trim every tensor by itself", whole=True)


class Trim:
    """The thresholds of all tasks; call `fit` first."""

    passes = 2

    def __init__(self, density: float, *, per_tensor: bool) -> None:
        self._density, self._per_tensor = density, per_tensor
        self.densities: Sequence[float] = ()  # one per task, in place of `density`
        self._found: dict[str, F32] = {}

    def fit(self, scan: Scan) -> None:
        name = "thresholds", self._per_tensor, self._density, tuple(self.densities)
        found_T = None if self._per_tensor else scan.kept(name)
        if found_T is not None:
            self._found[""] = found_T
            return
        upper: dict[str, Uppers] = {}
        inside: dict[str, Counts] = {}
        for key, counts_TB in self._uppers(scan):
            rank_T = np.array([self._rank(d, t) for t, d in enumerate(counts_TB.sum(1).tolist())])
            upper[key], below_T = _bins_of(counts_TB, rank_T)
            inside[key] = rank_T - below_T
        for key, counts_TB in self._count(scan, upper):
            lower_T, _ = _bins_of(counts_TB, inside[key])
            self._found[key] = (upper[key] << np.uint32(16) | lower_T).view(np.float32)
        if not self._per_tensor and "" in self._found:
            scan.keep(name, self._found[""])

    def _uppers(self, scan: Scan) -> Iterator[tuple[str, Counts]]:
        """The counts of upper halves, which hang on no density."""
        if self._per_tensor:
            yield from self._count(scan, {})
            return
        counts_TB = scan.kept("upper halves")
        if counts_TB is not None:
            yield "", counts_TB
            return
        for key, counts in self._count(scan, {}):
            scan.keep("upper halves", counts)
            yield key, counts

    def thresholds(self, block: Vectors) -> F32:
        """The thresholds of the tasks of a block, float32 (S,)."""
        return self.of(block.tensor)[block.rows]

    def of(self, tensor: str) -> F32:
        """The thresholds of all tasks for a tensor, float32 (T,)."""
        return self._found[self.key(tensor)]

    def flat(self) -> F32:
        """The thresholds of all tasks over the whole model, float32 (T,)."""
        return self._found[""]

    def _kept(self, d: int, t: int) -> int:
        """How many of task t's d values are kept."""
        return int(d * (self.densities[t] if self.densities else self._density))

    def _rank(self, d: int, t: int) -> int:
        """k, from 1; 1 for an empty vector."""
        kept = self._kept(d, t)
        return min(max(1, d), d - kept + 1) if self._per_tensor else max(1, d - kept)

    def key(self, tensor: str) -> str:
        """The flat vector that a tensor belongs to."""
        return tensor if self._per_tensor else ""

    def _count(self, scan: Scan, upper: Mapping[str, Uppers]) -> Iterator[tuple[str, Counts]]:
        """Per flat vector int64 (T, 65536): counts of upper halves, or of lower ones in a bin."""
        tables = _Tables(len(scan.names))
        counted = scan.blocks(partial(_counted, self, tables, upper))
        for key, blocks in groupby(counted, lambda done: self.key(done[0])):
            deque(blocks, maxlen=0)  # wait for them
            yield key, tables.total(key)


def _counted(trim: Trim, tables: _Tables, upper: Mapping[str, Uppers], block: Vectors) -> None:
    """Count a block's upper halves, or its lower ones in the bins of `upper` if those are known."""
    key, bits_SN = trim.key(block.tensor), block.tau_SN.view(np.uint32)
    with tables.lent(key) as counts_T:
        if upper:
            lower_halves(bits_SN, block.rows, upper[key], counts_T)
        else:
            upper_halves(bits_SN, block.rows, counts_T)


class _Tables:
    """Counts per flat vector, int64 (T, 65536): as many tables as threads count at once.

    A table is larger than a block's vectors, so blocks do not send theirs: threads share them.
    """

    def __init__(self, tasks: int) -> None:
        self._tasks, self._lock = tasks, threading.Lock()
        self._idle: dict[str, list[Counts]] = {}

    @contextmanager
    def lent(self, key: str) -> Iterator[Counts]:
        with self._lock:
            idle = self._idle.setdefault(key, [])
            table = idle.pop() if idle else np.zeros((self._tasks, 1 << 16), np.int64)
        yield table
        with self._lock:
            idle.append(table)

    def total(self, key: str) -> Counts:
        """When all blocks of a vector are counted."""
        first, *others = self._idle.pop(key)
        for table in others:
            first += table
        return first


def _bins_of(counts_TB: Counts, rank_T: Counts) -> tuple[Uppers, Counts]:
    """The bin that holds each task's element of a rank (from 1), and the elements in lower bins."""
    reached_TB = counts_TB.cumsum(1)
    bins_T = (reached_TB[:, :-1] < rank_T[:, None]).sum(1)
    below_T = (reached_TB - counts_TB)[np.arange(rank_T.size), bins_T]
    return bins_T.astype(np.uint32), below_T


def upper_halves(bits_SN: Uppers, rows: Rows, counts_T: Counts) -> None:
    """Count the upper halves of |tau|'s bits, for tasks `rows`."""
    for bits_N, t in zip(bits_SN, rows, strict=True):
        elements.upper_halves(bits_N, counts_T[t])


def lower_halves(bits_SN: Uppers, rows: Rows, upper_T: Uppers, counts_T: Counts) -> None:
    """Count lower halves where the upper one is the task's of `upper_T`."""
    for bits_N, t in zip(bits_SN, rows, strict=True):
        elements.lower_halves(bits_N, int(upper_T[t]), counts_T[t])
