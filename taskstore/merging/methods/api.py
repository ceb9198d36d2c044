"""What a merge method is given, what it says of itself, and what it does.

Every method makes one vector tau that is added to theta_0. An average of weights is theta_0 plus
the average of the task vectors, and so is everything that is linear in the weights.

Legend of all methods: S = tasks that have these elements, T = all tasks, N = elements of a block,
O and I = rows and columns of a matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from taskstore.errors import OptionError

F32 = NDArray[np.float32]
Rows = NDArray[np.intp]
BLOCK = 1 << 15  # elements that formulas take at a time: a few rows stay in the second-level cache


@dataclass(frozen=True)
class Vectors:
    """One block: elements [start, start + N) of a tensor of the base, and the tasks' vectors.

    w0_N         the base's bits, unsigned integers of `dtype`; theta0_N their values, float32
    tau_SN       float32 task vectors; valid until the thread reads its next block
    rows         the S tasks' numbers, of T
    weight_S     what the user wants each task to weigh, float32; 1 where nothing is said
    statistics   kind -> float32 (S, N), the diagonal statistics that the method asks for, and
                 KIND_base -> float32 (1, N), those of the base if it was measured
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


class Store(Protocol):
    """Arrays by key; what was kept may be gone."""

    def get(self, key: Hashable) -> NDArray[Any] | None: ...

    def put(self, key: Hashable, array: NDArray[Any]) -> None: ...


@dataclass(frozen=True)
class Shared:
    """What merges of the same models share of a matrix, whatever the tasks weigh.

    store      arrays by key
    read(s)    float32 (O, I), the vector of task rows[s] without its weight
    """

    store: Store
    read: Callable[[int], F32]


@dataclass(frozen=True)
class Whole:
    """A matrix that a method wants whole. Tasks are read one by one, so memory holds one of them.

    read(s)             float32 (O, I), the vector of task rows[s], weighted as `tau_SN` is; its own
                        memory, which may be written to
    statistic(kind, s)  float32, what was measured of this tensor for task rows[s]
    by_blocks(f)        float32 (O, I), f(block) of every block of all tasks, put together
    shared              what merges of the same models share; None: nothing, or the vectors are
                        changed
    """

    tensor: str
    shape: tuple[int, int]
    rows: Rows
    weight_S: F32
    read: Callable[[int], F32]
    statistic: Callable[[str, int], F32]
    by_blocks: Callable[[Callable[[Vectors], F32]], F32]
    shared: Shared | None = None


class Scan(Protocol):
    """A pass over all task vectors: in parallel, results in a fixed order, tensor by tensor."""

    @property
    def names(self) -> list[str]:
        """The T tasks."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The tensors that are merged, in the order of the pass."""

    def kept(self, key: Hashable) -> NDArray[Any] | None:
        """What a scan of the same vectors kept in a merge before, or None."""

    def keep(self, key: Hashable, array: NDArray[Any]) -> None:
        """Keep an array for merges that come, if that is wanted."""

    def whole(self, tensor: str) -> Whole:
        """A matrix, for methods that look at what another one makes of it."""

    def blocks(self, function: Callable[[Vectors], Any]) -> Iterator[tuple[str, Any]]:
        """(tensor, function(block)) per block.

        `function` is one of a module, or a `functools.partial` of one: another process may run it.
        """


class Unkept:
    """Base of scans that leave nothing to other merges: their vectors are changed."""

    def kept(self, key: Hashable) -> NDArray[Any] | None:
        return None

    def keep(self, key: Hashable, array: NDArray[Any]) -> None:
        pass


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
    """What a method says of itself.

    alpha        usual scale of the vector without validation data. A method with an option `alpha`
                 takes it there, and its vector is scaled already
    grid         values that a search tries for `alpha`
    least        models that it needs beside the base
    most         models that it takes; 0: any number
    statistics   kinds that must be measured of every fine-tune
    stage        "merge"; "before": it changes the task vectors that another method merges;
                 "after": it changes the merged vector that another method made
    packs        whether its vector makes sense as a store's multi-task vector
    merging      defaults of options that differ when one model is made, not a store
    weights      whether the tasks may be weighted
    whole        whether it may want matrices whole
    memory       what it holds at a time beside the blocks in flight, for people
    masks        whether it makes masks; the method that it works on is then made as for a store
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
    stage: str = "merge"
    packs: bool = True
    merging: Mapping[str, float] | None = None
    weights: bool = True
    whole: bool = False
    memory: str = "blocks"
    masks: bool = False


def pieces(n: int) -> Iterator[slice]:
    """n elements, BLOCK at a time."""
    for start in range(0, n, BLOCK):
        yield slice(start, min(start + BLOCK, n))


class Method:
    """A way to merge: block by block, or whole matrices. One object serves one family.

    INFO         what the method says of itself
    options      its options as the manifest records them
    matrices     tensors with statistics of a matrix (`gram`); set it before `fit`
    weighs       whether it uses `weight_S` itself; if not, its vectors come multiplied by it
    rows         whether its blocks hold whole rows, those of a tensor's last dimension
    one_sided    whether a mask only selects weights that the merged vector moves as the task does
    passes       how often `fit` goes over all task vectors
    """

    INFO: ClassVar[Info]
    matrices: frozenset[str] = frozenset()
    weighs = False
    rows = False
    one_sided = False
    passes = 0

    def __init__(self, **options: float) -> None:
        given = {option: options.get(option.name, option.default) for option in self.INFO.options}
        self.options: Mapping[str, float] = {
            option.name: int(value) if option.whole else value for option, value in given.items()
        }

    def vary(self, option: str, values: Sequence[float]) -> None:
        """Give an option one value for each of the T tasks; raises OptionError if it has no such.

        Call it before `fit`.
        """
        raise OptionError(f"option {option!r} needs one value for all models here")

    def fit(self, scan: Scan) -> None:
        """Look at all task vectors before any is merged, if the method needs that."""

    def merge(self, block: Vectors) -> F32:
        """The merged vector of a block, float32 (N,)."""
        raise NotImplementedError

    def wants_whole(self, tensor: str, shape: tuple[int, ...]) -> bool:
        """Whether `merge_whole` makes this tensor's vector."""
        return False

    def merge_whole(self, matrix: Whole) -> F32:
        """The merged vector of a matrix, float32 (O, I)."""
        raise NotImplementedError

    def matrix_bytes(self, shape: tuple[int, int], tasks: int) -> int:
        """The most bytes that `merge_whole` holds at a time for (O, I) of so many tasks."""
        raise NotImplementedError
