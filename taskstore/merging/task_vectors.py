"""A family's task vectors: which tensors they run over, and their values a block at a time.

Legend: S = tasks that have a tensor, T = all tasks, N = elements of a block.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskstore.errors import NotFinite
from taskstore.executors import Executor
from taskstore.kernels import cpu, floats
from taskstore.merging.methods import Method, Vectors, Whole
from taskstore.models import TensorInfo
from taskstore.models.family import Family
from taskstore.statistics import Statistics
from taskstore.statistics.file import DIAGONAL

F32 = NDArray[np.float32]


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
    """The chunks of one tensor, all of them or those of the numbers in `only`."""
    count = -(-info.numel // chunk)
    for k in only or range(count):
        yield Block(name, info, tuple(tasks), k, k * chunk, min((k + 1) * chunk, info.numel))


_local = threading.local()


def _scratch(tasks: int, n: int, dtype: type[Any]) -> NDArray[Any]:
    """(tasks, n), the thread's own; fresh pages for every block would cost a tenth."""
    if getattr(_local, "size", -1) < tasks * n:
        _local.size = tasks * n
        _local.memory = np.empty(_local.size, np.float32)
    memory: NDArray[Any] = _local.memory.view(dtype)
    return memory[: tasks * n].reshape(tasks, n)


def read_base(family: Family, block: Block) -> NDArray[Any]:
    """The base's bits (N,); raises NotFinite."""
    w0_N = family.base.read(block.name, block.start, block.stop)
    if not floats.all_finite(w0_N, block.info.dtype):
        raise NotFinite(family.base.name, block.name)
    return w0_N


def read(family: Family, block: Block) -> Vectors:
    """Read a block of the base and of every task that has it; raises NotFinite.

    The vectors lie in memory that the thread's next `read` uses again.
    """
    w0_N = read_base(family, block)
    theta0_N = floats.to_float32(w0_N, block.info.dtype)
    tau_SN = _scratch(len(block.tasks), w0_N.size, np.float32)
    for s, t in enumerate(block.tasks):
        task = family.tasks[t]
        dtype = task.tensors[block.name].dtype
        theta_N = task.read(block.name, block.start, block.stop)
        if not cpu.task_vector(theta_N, dtype, theta0_N, tau_SN[s]):
            raise NotFinite(task.name, block.name)
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


def read_bits(family: Family, block: Block) -> tuple[NDArray[Any], NDArray[Any]]:
    """The base's bits (N,) and the tasks' (S, N), for tasks of the base's dtype.

    Only the base is known to be finite. The tasks' bits lie where the thread's next read goes.
    """
    w0_N = read_base(family, block)
    theta_SN = _scratch(len(block.tasks), w0_N.size, w0_N.dtype.type)
    for s, t in enumerate(block.tasks):
        family.tasks[t].read_into(block.name, block.start, theta_SN[s])
    return w0_N, theta_SN


KEPT = 2  # matrices: blocks come in order, so at most the end of one and the start of the next
BASE = "base"  # "hessian_base": what was measured of the base


class Source:
    """Reads a family's blocks for a method, and merges them.

    weights      task -> weight, 1 where nothing is said
    statistics   task -> what was measured of it, "" -> of the base; `kinds` are those that are used
    """

    def __init__(
        self,
        family: Family,
        method: Method,
        chunk: int,
        weights: Mapping[str, float] | None = None,
        statistics: Mapping[str, Statistics] | None = None,
        kinds: Sequence[str] = (),
    ) -> None:
        self.family, self.method, self.chunk = family, method, chunk
        self._weights, self._statistics = dict(weights or {}), dict(statistics or {})
        self._kinds = [kind for kind in kinds if kind in DIAGONAL]
        self._lock = threading.Lock()
        self._matrices: OrderedDict[str, F32] = OrderedDict()

    def block(self, block: Block) -> Vectors:
        """Raises NotFinite."""
        vectors = read(self.family, block)
        weight_S = self._weights_of(block.tasks)
        if not self.method.weighs:
            for tau_N, weight in zip(vectors.tau_SN, weight_S, strict=True):
                if weight != 1:
                    tau_N *= weight
        return replace(vectors, weight_S=weight_S, statistics=self._measured(block))

    def merge(self, vectors: Vectors) -> F32:
        """The merged vector of a block, float32 (N,)."""
        if not self.method.wants_whole(vectors.tensor, vectors.shape):
            return self.method.merge(vectors)
        with self._lock:
            if vectors.tensor not in self._matrices:
                tasks = tuple(map(int, vectors.rows))
                whole = self._whole(vectors.tensor, tasks)
                merged = self.method.merge_whole(whole)
                merged = merged.T if self._turned(vectors.tensor) else merged
                self._matrices[vectors.tensor] = merged.reshape(-1)
                while len(self._matrices) > KEPT:
                    self._matrices.popitem(last=False)
            merged_M = self._matrices[vectors.tensor]
        part: F32 = merged_M[vectors.start : vectors.start + vectors.w0_N.size]
        return part

    def _whole(self, name: str, tasks: tuple[int, ...]) -> Whole:
        """A matrix of the base's that some tasks have; they are read when they are asked for."""
        info = self.family.base.tensors[name]
        rows, columns = info.shape
        turned = self._turned(name)
        weight_S = self._weights_of(tasks)

        def vector(s: int) -> F32:
            tau_M = np.empty(info.numel, np.float32)
            for block in blocks(name, info, tasks[s : s + 1], self.chunk):
                tau_M[block.start : block.stop] = self._vector(block)
            if weight_S[s] != 1 and not self.method.weighs:
                tau_M *= weight_S[s]
            tau_XX = tau_M.reshape(info.shape)
            return np.ascontiguousarray(tau_XX.T) if turned else tau_XX

        def statistic(kind: str, s: int) -> F32:
            assert kind == "gram", kind
            return self._statistics[self.family.tasks[tasks[s]].name].gram(name)

        return Whole(
            tensor=name,
            shape=(columns, rows) if turned else (rows, columns),
            rows=np.array(tasks, np.intp),
            weight_S=weight_S,
            read=vector,
            statistic=statistic,
        )

    def _turned(self, name: str) -> bool:
        """Whether a layer's weight is (I, O), as transformers' Conv1D has it."""
        return any(name in file.about.transposed for file in self._statistics.values())

    def _vector(self, block: Block) -> F32:
        """One task's; not in the memory that `read` uses, for the thread's own block lies there."""
        (t,) = block.tasks
        task, base = self.family.tasks[t], self.family.base
        theta0_N = floats.to_float32(
            base.read(block.name, block.start, block.stop), block.info.dtype
        )
        theta_N, tau_N = task.read(block.name, block.start, block.stop), np.empty_like(theta0_N)
        if not cpu.task_vector(theta_N, task.tensors[block.name].dtype, theta0_N, tau_N):
            raise NotFinite(task.name, block.name)
        return tau_N

    def _measured(self, block: Block) -> dict[str, F32]:
        """Diagonal statistics of a block, kind -> (S, N), and the base's (1, N)."""
        found: dict[str, F32] = {}
        for kind in self._kinds:
            owners = {kind: [self.family.tasks[t].name for t in block.tasks]}
            if "" in self._statistics:
                owners[f"{kind}_{BASE}"] = [""]
            for key, names in owners.items():
                rows = [
                    self._statistics[name].read(kind, block.name, block.start, block.stop)
                    for name in names
                ]
                found[key] = np.stack(rows)
        return found

    def _weights_of(self, tasks: tuple[int, ...]) -> F32:
        names = [self.family.tasks[t].name for t in tasks]
        return np.array([self._weights.get(name, 1) for name in names], np.float32)


@dataclass(frozen=True)
class VectorScan:
    """All task vectors of a family once over, for merge methods that look before they merge."""

    source: Source
    shared: Sequence[tuple[str, TensorInfo, tuple[int, ...]]]
    executor: Executor
    report: Callable[[str, int], None]  # tensor name, bytes of the family that were read

    @property
    def names(self) -> list[str]:
        return [task.name for task in self.source.family.tasks]

    def elements(self) -> list[int]:
        counts = [0] * len(self.source.family.tasks)
        for _, info, tasks in self.shared:
            for t in tasks:
                counts[t] += info.numel
        return counts

    def blocks(self, function: Callable[[Vectors], Any]) -> Iterator[tuple[str, Any]]:
        """(tensor, what `function` says of it) for each block, in order."""
        every = (
            block
            for name, info, tasks in self.shared
            for block in blocks(name, info, tasks, self.source.chunk)
        )
        for block, result in self.executor.map(_seen, (self.source, function), every):
            size = block.info.nbytes // max(1, block.info.numel)
            self.report(block.name, (block.stop - block.start) * size * (1 + len(block.tasks)))
            yield block.name, result


def _seen(shared: tuple[Source, Callable[[Vectors], Any]], block: Block) -> tuple[Block, Any]:
    source, function = shared
    return block, function(source.block(block))
