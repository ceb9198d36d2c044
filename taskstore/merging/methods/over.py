"""Methods that work on another one: they change the vectors first, then the other merges them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from taskstore.merging.methods.api import F32, Method, Scan, Vectors

Change = Callable[[Vectors], Vectors]


class Over(Method):
    """Base of such a method: `_change` is what it does to a block before `inner` sees it."""

    def __init__(self, inner: Method, **options: float) -> None:
        super().__init__(**options)
        self._inner, self.options = inner, {**inner.options, **self.options}
        self.one_sided, self.passes = inner.one_sided, inner.passes

    def _change(self, block: Vectors) -> Vectors:
        raise NotImplementedError

    @property
    def matrices(self) -> frozenset[str]:
        return self._inner.matrices

    @matrices.setter
    def matrices(self, tensors: frozenset[str]) -> None:
        self._inner.matrices = tensors

    def fit(self, scan: Scan) -> None:
        self._inner.fit(Changed(scan, self._change))

    def merge(self, block: Vectors) -> F32:
        return self._inner.merge(self._change(block))

    def wants_whole(self, tensor: str, shape: tuple[int, ...]) -> bool:
        return self._inner.wants_whole(tensor, shape)


@dataclass(frozen=True)
class Changed:
    """A scan whose blocks are changed before a function sees them."""

    scan: Scan
    change: Change

    @property
    def names(self) -> list[str]:
        return self.scan.names

    def blocks(self, function: Callable[[Vectors], Any]) -> Iterator[tuple[str, Any]]:
        return self.scan.blocks(partial(_of_changed, self.change, function))


def _of_changed(change: Change, function: Callable[[Vectors], Any], block: Vectors) -> Any:
    return function(change(block))
