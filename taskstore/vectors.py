"""A family's task vectors: which tensors they run over, and their values a block at a time.

Legend: S = tasks that have a tensor, T = all tasks, N = elements of a block.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskstore.errors import NotFinite
from taskstore.executors import ordered_map
from taskstore.kernels import cpu, floats
from taskstore.merge import Vectors
from taskstore.models import TensorInfo
from taskstore.models.family import Family

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


@dataclass(frozen=True)
class VectorScan:
    """All task vectors of a family once over, for merge methods that look before they merge."""

    family: Family
    masked: Sequence[tuple[str, TensorInfo, tuple[int, ...]]]
    chunk: int
    jobs: int
    in_flight: int
    report: Callable[[str, int], None]  # tensor name, bytes of the family that were read
    read: Callable[[Block], Vectors]

    @property
    def names(self) -> list[str]:
        return [task.name for task in self.family.tasks]

    def elements(self) -> list[int]:
        counts = [0] * len(self.family.tasks)
        for _, info, tasks in self.masked:
            for t in tasks:
                counts[t] += info.numel
        return counts

    def blocks(self, function: Callable[[Vectors], Any]) -> Iterator[tuple[str, Any]]:
        def one(block: Block) -> tuple[Block, Any]:
            return block, function(self.read(block))

        every = (
            b for name, info, tasks in self.masked for b in blocks(name, info, tasks, self.chunk)
        )
        for block, result in ordered_map(one, every, jobs=self.jobs, in_flight=self.in_flight):
            size = block.info.nbytes // max(1, block.info.numel)
            self.report(block.name, (block.stop - block.start) * size * (1 + len(block.tasks)))
            yield block.name, result
