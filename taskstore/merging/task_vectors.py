"""A family's task vectors, read block by block.

Legend: S = tasks that have a tensor, N = elements of a block, M = elements of a tensor.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskstore.errors import NotFinite
from taskstore.kernels import cpu, floats
from taskstore.merging.methods import F32, Method, Shared, Vectors, Whole
from taskstore.merging.methods.layer_groups import layer_groups
from taskstore.merging.scratch import KeptVector, Matrices, Scratch
from taskstore.models import TensorInfo
from taskstore.models.family import Family
from taskstore.statistics import Statistics
from taskstore.statistics.statistics_file import DIAGONAL

_scratch = Scratch()


@dataclass(frozen=True)
class Block:
    """Elements [start, stop) of one tensor: chunk `k` of it."""

    name: str
    info: TensorInfo
    tasks: tuple[int, ...]  # the tasks that have a mask for it
    k: int
    start: int
    stop: int


def blocks(
    name: str, info: TensorInfo, tasks: Sequence[int], chunk: int, *, only: Sequence[int] = ()
) -> Iterator[Block]:
    """The chunks of one tensor: all of them, or those numbered in `only`."""
    count = -(-info.numel // chunk)
    for k in only or range(count):
        yield Block(name, info, tuple(tasks), k, k * chunk, min((k + 1) * chunk, info.numel))


def chunk_of(info: TensorInfo, chunk: int, method: Method) -> int:
    """The elements of a block of this tensor: whole rows, if the method wants them."""
    width = info.shape[-1] if method.rows and info.shape else 1
    return max(1, chunk // max(1, width)) * max(1, width)


def read_base(family: Family, block: Block) -> NDArray[Any]:
    """The base's bits of a block, (N,)."""
    return family.base.read(block.name, block.start, block.stop)


def bytes_of(family: Family, block: Block) -> int:
    """Count the bytes of all models' weights in a block."""
    n, models = block.stop - block.start, [family.base, *(family.tasks[t] for t in block.tasks)]
    infos = [model.tensors[block.name] for model in models]
    return sum(n * info.nbytes // max(1, info.numel) for info in infos)


def read(family: Family, block: Block) -> Vectors:
    """A block of the base and the vectors of every task that has it.

    Raises NotFinite where a vector is not; the base's own weights need not be. The vectors lie in
    memory that the thread's next `read` uses again.
    """
    w0_N = read_base(family, block)
    theta0_N = floats.to_float32(w0_N, block.info.dtype)
    tau_SN = _scratch.rows(len(block.tasks), w0_N.size)
    for t, tau_N in zip(block.tasks, tau_SN, strict=True):
        _subtract(family, t, block, theta0_N, tau_N)
    return Vectors(
        tensor=block.name,
        shape=block.info.shape,
        dtype=block.info.dtype,
        start=block.start,
        w0_N=w0_N,
        theta0_N=theta0_N,
        tau_SN=tau_SN,
        rows=np.array(block.tasks, np.intp),
        weight_S=np.ones(len(block.tasks), np.float32),
        statistics={},
    )


def _subtract(family: Family, t: int, block: Block, theta0_N: F32, tau_N: F32) -> None:
    """Write theta_t - theta_0 of a block to `tau_N`; raises NotFinite."""
    task = family.tasks[t]
    theta_N = task.read(block.name, block.start, block.stop)
    if not cpu.task_vector(theta_N, task.tensors[block.name].dtype, theta0_N, tau_N):
        raise NotFinite(task.name, block.name)


def whole_vector(family: Family, name: str, t: int, chunk: int) -> F32:
    """One task's vector in the base's shape, in memory of its own; raises NotFinite."""
    base, info = family.base, family.base.tensors[name]
    tau_M = np.empty(info.numel, np.float32)
    for block in blocks(name, info, (t,), chunk):
        theta0_N = floats.to_float32(base.read(name, block.start, block.stop), info.dtype)
        _subtract(family, t, block, theta0_N, tau_M[block.start : block.stop])
    return tau_M.reshape(info.shape)


def read_bits(family: Family, block: Block) -> tuple[NDArray[Any], NDArray[Any]]:
    """The bits of a block of the base (N,), and of tasks with its dtype (S, N).

    Nothing is checked. The tasks' bits lie in memory that the thread's next read uses again.
    """
    w0_N = read_base(family, block)
    theta_SN = _scratch.rows(len(block.tasks), w0_N.size, w0_N.dtype.type)
    for s, t in enumerate(block.tasks):
        family.tasks[t].read_into(block.name, block.start, theta_SN[s])
    return w0_N, theta_SN


class Source:
    """Reads a family's blocks for a method, and merges them.

    weights        task -> weight, 1 for tasks that are not named
    layer_weights  the same for each group of layers, in the place of `weights`
    statistics     task -> what was measured of it, "" -> of the base
    kinds          the kinds of statistics that the method uses
    kept           where the merged vector is written, or read if it is there
    """

    def __init__(
        self,
        family: Family,
        method: Method,
        chunk: int,
        weights: Mapping[str, float] | None = None,
        layer_weights: Sequence[Mapping[str, float]] = (),
        statistics: Mapping[str, Statistics] | None = None,
        kinds: Sequence[str] = (),
        kept: KeptVector | None = None,
    ) -> None:
        self.family, self.method, self.chunk = family, method, chunk
        self._weights, self._statistics = dict(weights or {}), dict(statistics or {})
        self._layer_weights = layer_weights
        self._groups = layer_groups(family.base.tensors, len(layer_weights))
        self._kinds = [kind for kind in kinds if kind in DIAGONAL]
        self._lock, self._matrices = threading.Lock(), Matrices()
        self.kept = kept
        if kept:
            kept.begin({name: info.numel for name, info in family.base.tensors.items()})

    def __getstate__(self) -> dict[str, Any]:
        """Merged matrices stay here: others make their own."""
        return {k: v for k, v in vars(self).items() if k not in ("_lock", "_matrices")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.Lock(), _matrices=Matrices())

    def block(self, block: Block) -> Vectors:
        """A block as the method wants it; raises NotFinite."""
        if self.kept and self.kept.whole:
            return read(self.family, replace(block, tasks=()))
        vectors = read(self.family, block)
        weight_S = self._weights_of(block.name, block.tasks)
        if not self.method.weighs:
            for tau_N, weight in zip(vectors.tau_SN, weight_S, strict=True):
                if weight != 1:
                    tau_N *= weight
        return replace(vectors, weight_S=weight_S, statistics=self._measured(block))

    def prove(self) -> None:
        """Raise ChecksumMismatch where what was read out of a store is not what was packed."""
        self.family.prove()
        if self.kept:
            self.kept.finish()

    def merge(self, vectors: Vectors) -> F32:
        """The merged vector of a block, float32 (N,)."""
        if self.kept is None or not self.kept.key:
            return self._merged(vectors)
        where = vectors.tensor, vectors.start
        if self.kept.whole:
            return self.kept.read(*where, vectors.w0_N.size)
        merged_N = self._merged(vectors)
        self.kept.write(*where, merged_N)
        return merged_N

    def _merged(self, vectors: Vectors) -> F32:
        if not self.method.wants_whole(vectors.tensor, vectors.shape):
            return self.method.merge(vectors)
        with self._lock:
            if vectors.tensor not in self._matrices:
                merged_M = self._merged_whole(vectors.tensor, tuple(map(int, vectors.rows)))
                self._matrices.put(vectors.tensor, merged_M)
            return self._matrices.take(vectors.tensor, vectors.start, vectors.w0_N.size)

    def _merged_whole(self, name: str, tasks: tuple[int, ...]) -> F32:
        """The merged vector of a matrix that some tasks have, flat; they are read one by one."""
        merged = self.method.merge_whole(self.whole(name, tasks))
        return (merged.T if self._turned(name) else merged).reshape(-1)

    def whole(self, name: str, tasks: tuple[int, ...]) -> Whole:
        """A matrix as the method wants it."""
        info, turned = self.family.base.tensors[name], self._turned(name)
        rows, columns = info.shape
        weight_S = self._weights_of(name, tasks)

        def plain(s: int) -> F32:
            tau_XX = whole_vector(self.family, name, tasks[s], self.chunk)
            return np.ascontiguousarray(tau_XX.T) if turned else tau_XX

        def vector(s: int) -> F32:
            tau_XX = plain(s)
            if weight_S[s] != 1 and not self.method.weighs:
                tau_XX *= weight_S[s]
            return tau_XX

        def statistic(kind: str, s: int) -> F32:
            assert kind == "gram", kind
            return self._statistics[self.family.tasks[tasks[s]].name].gram(name)

        def by_blocks(function: Callable[[Vectors], F32]) -> F32:
            parts = blocks(name, info, tasks, chunk_of(info, self.chunk, self.method))
            made = np.concatenate([function(self.block(block)) for block in parts])
            return np.ascontiguousarray(made.reshape(info.shape).T if turned else made).reshape(
                shape
            )

        shape = (columns, rows) if turned else (rows, columns)
        rows_S = np.array(tasks, np.intp)
        prepared = self.kept and self.kept.prepared
        shared = Shared(prepared, plain) if prepared else None
        return Whole(name, shape, rows_S, weight_S, vector, statistic, by_blocks, shared)

    @property
    def weighted(self) -> str:
        """The weights that the method's vectors are multiplied by, in words."""
        return "" if self.method.weighs else repr((self._weights, self._layer_weights))

    def _turned(self, name: str) -> bool:
        """Whether a layer's weight is (I, O), as transformers' Conv1D has it."""
        return any(name in file.about.transposed for file in self._statistics.values())

    def _measured(self, block: Block) -> dict[str, F32]:
        """Diagonal statistics of a block: kind -> (S, N), and KIND_base -> (1, N)."""
        owners = {"": [self.family.tasks[t].name for t in block.tasks]}
        if "" in self._statistics:
            owners["_base"] = [""]
        return {
            kind + suffix: np.stack(
                [self._statistics[n].read(kind, block.name, block.start, block.stop) for n in names]
            )
            for kind in self._kinds
            for suffix, names in owners.items()
        }

    def _weights_of(self, tensor: str, tasks: tuple[int, ...]) -> F32:
        group = self._groups.get(tensor)
        weights = self._weights if group is None else self._layer_weights[group]
        names = [self.family.tasks[t].name for t in tasks]
        return np.array([weights.get(name, 1) for name in names], np.float32)
