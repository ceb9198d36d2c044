"""A family's vectors as a merge method wants them: weighted, with the statistics beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from taskstore import floats
from taskstore.errors import NotFinite
from taskstore.kernels import cpu
from taskstore.merge import Method, Vectors, Whole
from taskstore.vectors import Block, Family, blocks, read

F32 = NDArray[np.float32]


@dataclass(frozen=True)
class Source:
    """Reads blocks and matrices of a family for a method; `weights` are those of all T tasks."""

    family: Family
    method: Method
    weights: Mapping[str, float]
    chunk: int

    def block(self, block: Block) -> Vectors:
        """Raises NotFinite."""
        vectors = read(self.family, block)
        weight_S = self._weights(block.tasks)
        if not self.method.weighs:
            for tau_N, weight in zip(vectors.tau_SN, weight_S, strict=True):
                if weight != 1:
                    tau_N *= weight
        return replace(vectors, weight_S=weight_S)

    def whole(self, name: str, tasks: tuple[int, ...]) -> Whole:
        """A matrix of the base's that some tasks have; they are read when they are asked for."""
        info = self.family.base.tensors[name]
        rows, columns = info.shape
        weight_S = self._weights(tasks)

        def vector(s: int) -> F32:
            task, tau = self.family.tasks[tasks[s]], np.empty(info.numel, np.float32)
            for block in blocks(name, info, tasks, self.chunk):
                part = slice(block.start, block.stop)
                theta0_N = floats.to_float32(
                    self.family.base.read(name, block.start, block.stop), info.dtype
                )
                theta_N = task.read(name, block.start, block.stop)
                if not cpu.task_vector(theta_N, task.tensors[name].dtype, theta0_N, tau[part]):
                    raise NotFinite(task.name, name)
            if weight_S[s] != 1 and not self.method.weighs:
                tau *= weight_S[s]
            return tau.reshape(rows, columns)

        return Whole(
            tensor=name,
            shape=(rows, columns),
            rows=np.array(tasks, np.intp),
            weight_S=weight_S,
            read=vector,
            statistic=lambda kind, s: np.empty(0, np.float32),
        )

    def _weights(self, tasks: tuple[int, ...]) -> F32:
        names = [self.family.tasks[t].name for t in tasks]
        return np.array([self.weights.get(name, 1) for name in names], np.float32)
