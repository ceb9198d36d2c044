"""A merge method that has other numbers, or weights, for each tensor, as a recipe says them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from taskstore.merging.job import VectorScan
from taskstore.merging.mergekit.settings import Call
from taskstore.merging.methods import F32, Info, Method, Vectors, Whole, make
from taskstore.merging.methods.api import Scan, Unkept


@dataclass(frozen=True)
class Leaf:
    """How one tensor is merged; `weight_T` are of all tasks."""

    method: Method
    weight_T: F32
    alpha: np.float32

    def block(self, block: Vectors) -> Vectors:
        """With the weights of this tensor, in the vectors or beside them."""
        weight_S = self.weight_T[block.rows]
        if self.method.weighs or (weight_S == 1).all():
            return replace(block, weight_S=weight_S)
        return replace(block, weight_S=weight_S, tau_SN=block.tau_SN * weight_S[:, None])

    def whole(self, matrix: Whole) -> Whole:
        weight_S = self.weight_T[matrix.rows]

        def read(s: int) -> F32:
            tau_OI = matrix.read(s)
            return tau_OI if self.method.weighs else tau_OI * weight_S[s]

        def by_blocks(function: Callable[[Vectors], F32]) -> F32:
            return matrix.by_blocks(lambda block: function(self.block(block)))

        return replace(matrix, weight_S=weight_S, read=read, by_blocks=by_blocks)


class ByTensor(Method):
    """One method per set of numbers; tensors that share it are fitted together."""

    weighs = True

    def __init__(self, calls: Mapping[str, Call], rows: Mapping[str, Sequence[int]], tasks: int):
        """`rows` are tensor -> the numbers of the tasks that its call's weights are of."""
        made: dict[Any, Method] = {}
        self._leaves: dict[str, Leaf] = {}
        for tensor, call in calls.items():
            varied = {o: tuple(_spread(v, rows[tensor], tasks)) for o, v in call.varied.items()}
            key = (call.method, *sorted(call.options.items()), *sorted(varied.items()))
            if key not in made:
                made[key] = make(call.method, call.options, merging=True)
                for option, values in varied.items():
                    made[key].vary(option, values)
            weights = call.weights if call.weights is not None else [1.0] * len(rows[tensor])
            weight_T = np.array(_spread(weights, rows[tensor], tasks), np.float32)
            self._leaves[tensor] = Leaf(made[key], weight_T, np.float32(call.alpha))
        methods = list(made.values())
        self.INFO: Info = methods[0].INFO  # type: ignore[misc]
        self.options = methods[0].options if len(methods) == 1 else {}
        self.rows = any(method.rows for method in methods)
        self.passes = max(method.passes for method in methods)

    def fit(self, scan: Scan) -> None:
        assert isinstance(scan, VectorScan)
        for method in dict.fromkeys(leaf.method for leaf in self._leaves.values()):
            own = [s for s in scan.shared if self._leaves[s[0]].method is method]
            method.fit(_Weighed(replace(scan, shared=own), self._leaves))

    def merge(self, block: Vectors) -> F32:
        leaf = self._leaves[block.tensor]
        return _scaled(leaf.method.merge(leaf.block(block)), leaf.alpha)

    def wants_whole(self, tensor: str, shape: tuple[int, ...]) -> bool:
        return self._leaves[tensor].method.wants_whole(tensor, shape)

    def merge_whole(self, matrix: Whole) -> F32:
        leaf = self._leaves[matrix.tensor]
        return _scaled(leaf.method.merge_whole(leaf.whole(matrix)), leaf.alpha)

    def matrix_bytes(self, shape: tuple[int, int], tasks: int) -> int:
        methods = {leaf.method for leaf in self._leaves.values()}
        wanting = [m for m in methods if m.wants_whole("", shape)]
        return max((m.matrix_bytes(shape, tasks) for m in wanting), default=0)


@dataclass(frozen=True)
class _Weighed(Unkept):
    """A scan of some tensors, with each one's own weights."""

    scan: VectorScan
    leaves: Mapping[str, Leaf]

    @property
    def names(self) -> list[str]:
        return self.scan.names

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return self.scan.shapes

    def whole(self, tensor: str) -> Whole:
        return self.leaves[tensor].whole(self.scan.whole(tensor))

    def blocks(self, function: Callable[[Vectors], Any]) -> Iterator[tuple[str, Any]]:
        return self.scan.blocks(lambda block: function(self.leaves[block.tensor].block(block)))


def _spread(values: Sequence[float], rows: Sequence[int], tasks: int) -> list[float]:
    """One value per task: those of `rows`, and 1 for tasks that lack the tensor."""
    found = [1.0] * tasks
    for row, value in zip(rows, values, strict=True):
        found[row] = value
    return found


def _scaled(merged: F32, alpha: np.float32) -> F32:
    return merged if alpha == 1 else merged * alpha
