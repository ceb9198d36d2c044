"""Methods that work on another one: they change its task vectors, or the vector that it made.

A `Before` changes the vectors, and the method below merges what comes out. An `After` changes the
merged vector; it sees the task vectors as they are, not as a `Before` leaves them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from taskstore.merging.methods.api import F32, Method, Scan, Unkept, Vectors, Whole

Change = Callable[[Vectors], Vectors]


class Over(Method):
    """A method with another one below it, `inner`, whose options are its own too.

    `varied`: its options that `vary` may give each task a value of.
    """

    own_passes = 0
    varied: tuple[str, ...] = ()

    def __init__(self, inner: Method, **options: float) -> None:
        super().__init__(**options)
        self._inner, self.options = inner, {**inner.options, **self.options}
        self.one_sided, self.weighs = inner.one_sided, inner.weighs
        self.rows = self.rows or inner.rows
        self.passes = inner.passes + self.own_passes
        self._values = {name: [self.options[name]] for name in self.varied}

    @property
    def matrices(self) -> frozenset[str]:
        return self._inner.matrices

    @matrices.setter
    def matrices(self, tensors: frozenset[str]) -> None:
        self._inner.matrices = tensors

    def vary(self, option: str, values: Sequence[float]) -> None:
        if option in self._values:
            self._values[option] = list(values)
        else:
            self._inner.vary(option, values)

    def wants_whole(self, tensor: str, shape: tuple[int, ...]) -> bool:
        return self._inner.wants_whole(tensor, shape)

    def matrix_bytes(self, shape: tuple[int, int], tasks: int) -> int:
        return self._inner.matrix_bytes(shape, tasks)


def value_of(values: Sequence[float], row: int) -> float:
    """Return a task's value of an option: its own, or the one of all."""
    return values[row if len(values) > 1 else 0]


class Before(Over):
    """Base of such a method: `_change` is what it does to a block before `inner` sees it."""

    def fit(self, scan: Scan) -> None:
        self._look(scan)
        self._inner.fit(Changed(scan, self))

    def _look(self, scan: Scan) -> None:
        """Go over the vectors, if the change needs that."""

    def _change(self, block: Vectors) -> Vectors:
        """The block with new vectors. Its own stay as they are: masks may be made of them."""
        raise NotImplementedError

    def _change_task(self, tau_OI: F32, matrix: Whole, s: int) -> F32:
        """The same of one task's matrix, which may be written to."""
        raise NotImplementedError

    def change_whole(self, matrix: Whole) -> Whole:
        def read(s: int) -> F32:
            return self._change_task(matrix.read(s), matrix, s)

        def by_blocks(function: Callable[[Vectors], F32]) -> F32:
            return matrix.by_blocks(partial(of_changed, self._change, function))

        return replace(matrix, read=read, by_blocks=by_blocks, shared=None)

    def merge(self, block: Vectors) -> F32:
        return self._inner.merge(self._change(block))

    def merge_whole(self, matrix: Whole) -> F32:
        return self._inner.merge_whole(self.change_whole(matrix))


class After(Over):
    """Base of such a method: `_finish` is what it does to a block that `inner` merged.

    It may change matrices whole (`_finishes`, `_finish_whole`), whatever `inner` does.
    """

    def _finish(self, block: Vectors, merged_N: F32) -> F32:
        raise NotImplementedError

    def _finishes(self, tensor: str, shape: tuple[int, ...]) -> bool:
        """Whether it wants this tensor whole."""
        return False

    def _finish_whole(self, matrix: Whole, merged_OI: F32) -> F32:
        raise NotImplementedError

    def fit(self, scan: Scan) -> None:
        self._inner.fit(scan)

    def merge(self, block: Vectors) -> F32:
        return self._finish(block, self._inner.merge(block))

    def wants_whole(self, tensor: str, shape: tuple[int, ...]) -> bool:
        return self._finishes(tensor, shape) or super().wants_whole(tensor, shape)

    def merge_whole(self, matrix: Whole) -> F32:
        return self._finish_whole(matrix, merged_below(self._inner, matrix))


def merged_below(method: Method, matrix: Whole) -> F32:
    """A matrix's merged vector, from a method that need not want it whole."""
    if method.wants_whole(matrix.tensor, matrix.shape):
        return method.merge_whole(matrix)
    return matrix.by_blocks(method.merge)


@dataclass(frozen=True)
class Changed(Unkept):
    """A scan whose blocks and matrices are changed before a function sees them."""

    scan: Scan
    method: Before

    @property
    def names(self) -> list[str]:
        return self.scan.names

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return self.scan.shapes

    def whole(self, tensor: str) -> Whole:
        return self.method.change_whole(self.scan.whole(tensor))

    def blocks(self, function: Callable[[Vectors], Any]) -> Iterator[tuple[str, Any]]:
        return self.scan.blocks(partial(of_changed, self.method._change, function))


def of_changed(change: Change, function: Callable[[Vectors], Any], block: Vectors) -> Any:
    return function(change(block))
