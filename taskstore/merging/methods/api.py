"""What a merge method is given, what it says of itself, and what it does.

All methods make one vector tau that is added to theta_0: an average of weights is theta_0 + the
average of task vectors, and so is everything that is linear in the weights.

Legend: S = tasks that have these elements, T = all tasks, N = elements of a block, O and I = rows
and columns of a matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
Rows = NDArray[np.intp]


@dataclass(frozen=True)
class Vectors:
    """Elements [start, start + N) of one tensor: the base's, and the tasks' vectors.

    w0_N         the base's bits, unsigned integers of `dtype`; theta0_N their values, float32
    tau_SN       float32 task vectors; valid until the thread reads its next block
    rows         the S tasks' numbers, of T
    weight_S     what the user wants each task to weigh, float32; 1 where nothing is said
    statistics   kind -> float32 (S, N), the diagonal statistics that the method asks for; of the
                 base KIND_base, float32 (1, N), where it was measured too
    """

    tensor: str
    shape: tuple[int, ...]
    dtype: str
    start: int
    w0_N: NDArray[Any]
    theta0_N: F32
    tau_SN: F32
    rows: Rows
    weight_S: F32
    statistics: Mapping[str, F32]


@dataclass(frozen=True)
class Whole:
    """A matrix that a method wants whole; tasks are read one after the other, so memory holds one.

    read(s)             float32 (O, I), the vector of task rows[s], weighted as `tau_SN` is
    statistic(kind, s)  float32, what was measured of this tensor for it
    """

    tensor: str
    shape: tuple[int, int]
    rows: Rows
    weight_S: F32
    read: Callable[[int], F32]
    statistic: Callable[[str, int], F32]


class Scan(Protocol):
    """All task vectors once over, in parallel, in a fixed order, a tensor after the other."""

    @property
    def names(self) -> list[str]:
        """The T tasks."""

    def elements(self) -> list[int]:
        """Length of each task's flat vector."""

    def blocks(self, function: Callable[[Vectors], Any]) -> Iterator[tuple[str, Any]]:
        """(tensor, function(block)) per block."""


@dataclass(frozen=True)
class Option:
    """A number that a method takes: `low` <= value <= `high`."""

    name: str
    default: float
    low: float
    high: float
    help: str
    whole: bool = False  # integers only


@dataclass(frozen=True)
class Info:
    """A method in words.

    alpha        scale of the vector that is usual without validation data; a method that has an
                 option `alpha` takes it there, and its vector is scaled already
    grid         values that `alpha` is searched on
    least        models that it needs beside the base
    most         models that it takes; 0: any number
    statistics   kinds that must be measured of every fine-tune
    over         name of the method that it works on, unless another is asked for as "NAME+OTHER"
    packs        whether its vector makes sense as a store's multi-task vector
    merging      options that differ where one model is made, not a store
    weights      whether the tasks may be weighted
    whole        whether it may want matrices whole
    masks        whether it makes masks: the method that it works on is then made as for a store
    """

    title: str
    formula: str
    paper: str
    options: tuple[Option, ...] = ()
    alpha: float = 1.0
    grid: tuple[float, ...] = tuple(i / 10 for i in range(1, 11))
    least: int = 1
    most: int = 0
    statistics: tuple[str, ...] = ()
    over: str = ""
    packs: bool = True
    merging: Mapping[str, float] | None = None
    weights: bool = True
    whole: bool = False
    masks: bool = False


class Method(Protocol):
    """A way to merge; one object serves one family.

    `matrices` names the tensors that have statistics of their own shape; set it before `fit`.
    """

    @property
    def INFO(self) -> Info: ...  # noqa: N802

    @property
    def weighs(self) -> bool:
        """Whether it deals with `weight_S` itself; else its vectors are multiplied by it."""

    @property
    def matrices(self) -> frozenset[str]: ...

    @matrices.setter
    def matrices(self, tensors: frozenset[str]) -> None: ...

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

    def merge(self, block: Vectors) -> F32:
        """The merged vector of a block, float32 (N,)."""

    def wants_whole(self, tensor: str, shape: tuple[int, ...]) -> bool:
        """Whether `merge_whole` makes this tensor's vector."""

    def merge_whole(self, matrix: Whole) -> F32:
        """The merged vector of a matrix, float32 (O, I)."""


class Blockwise:
    """Defaults of a method that works on blocks, each on its own."""

    weighs = False
    one_sided = False
    passes = 0
    options: Mapping[str, float] = {}
    matrices: frozenset[str] = frozenset()

    def fit(self, scan: Scan) -> None:
        """Nothing to know beforehand."""

    def wants_whole(self, tensor: str, shape: tuple[int, ...]) -> bool:
        return False

    def merge_whole(self, matrix: Whole) -> F32:
        raise NotImplementedError
