"""MERGES: name -> how task vectors become one multi-task vector.

A method may need to see all task vectors before it merges any (`fit`, with a `Scan`); then it
merges blocks of elements, each on its own, so any block size gives the same result. Names are
written into stores: never rename one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from taskstore.merge.lsq import Lsq
from taskstore.merge.sum import Sum
from taskstore.merge.ties import Ties

F32 = NDArray[np.float32]


class Scan(Protocol):
    """All task vectors once over, in parallel, in a fixed order."""

    @property
    def tasks(self) -> int:
        """How many there are."""

    def elements(self) -> list[int]:
        """Length of each task's flat vector."""

    def blocks(self, function: Callable[[F32, NDArray[np.intp]], Any]) -> Iterator[Any]:
        """function(tau_SN, rows) per block; rows name the S tasks that have these elements."""


class Method(Protocol):
    """A way to merge; one object serves one family."""

    @property
    def options(self) -> Mapping[str, float]:
        """What the manifest records of it."""

    @property
    def one_sided(self) -> bool:
        """Whether its masks take only weights that the merged vector moves the task's way."""

    @property
    def passes(self) -> int:
        """Times that `fit` goes over all task vectors."""

    def fit(self, scan: Scan) -> None:
        """Look at all task vectors first, if the method needs that."""

    def merge(self, tau_SN: F32, rows: NDArray[np.intp]) -> F32:
        """float32 (S, N), tasks `rows` -> float32 (N,)."""


MERGES: Mapping[str, type[Lsq] | type[Sum] | type[Ties]] = {
    "lsq": Lsq,
    "sum": Sum,
    "ties": Ties,
}
