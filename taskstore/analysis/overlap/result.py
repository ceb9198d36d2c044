"""The result of `measure`, in the terms of arXiv 2405.07813, section 5.

A position is live where the multi-task model differs from the base; elsewhere no mask can matter.
A live position is catastrophic in no task's mask, selfish in one, shared in two or more, universal
in all tasks that have the tensor.

Legend: T = tasks, S = tasks that have a mask of a tensor, k = how many of them use a position.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from taskstore.analysis.overlap.places import KINDS

Matrix = Sequence[Sequence[float | None]]
Counts = Sequence[Sequence[int]]


@dataclass(frozen=True)
class TensorUse:
    """One tensor's counts; `ones` and `usage` are over the S tasks that have a mask of it."""

    name: str
    layer: int | None
    type: str
    kind: str
    elements: int
    live: int
    ones: Mapping[str, int]  # task -> positions that it takes from the multi-task model
    usage: Sequence[int]  # [k]: live positions in exactly k masks, k = 0 .. S

    @property
    def universal(self) -> int:
        return self.usage[-1]


@dataclass(frozen=True)
class Angles:
    """Lengths of task vectors, and cosines of each pair, over the tensors that tasks share.

    of        task -> "fine-tune", or the tier that it was rebuilt with in a store that records none
    cosines   (T, T); None where a vector is zero
    share     of the weights, those that were looked at
    """

    of: Mapping[str, str]
    norms: Mapping[str, float]
    cosines: Matrix
    share: float


@dataclass(frozen=True)
class Overlap:
    """How the masks of a store's tasks overlap, and the angles between its vectors."""

    tasks: Sequence[str]  # those that have masks; rows and columns of `both` and `own`
    tensors: Sequence[TensorUse]
    both: Counts  # (T, T) |a and b|, over the tensors of which both have a mask
    own: Counts  # (T, T) |a| of the row's task, over the same
    vectors: Angles | None = None

    @property
    def usage(self) -> list[int]:
        """Live positions that k tasks use, k = 0 .. T."""
        return self._summed(self.tensors)

    @property
    def universal(self) -> int:
        """Live positions that every task uses that has the tensor."""
        return sum(tensor.universal for tensor in self.tensors)

    @property
    def live(self) -> int:
        return sum(tensor.live for tensor in self.tensors)

    @property
    def elements(self) -> int:
        return sum(tensor.elements for tensor in self.tensors)

    @property
    def either(self) -> Counts:
        """(T, T) |a or b|."""
        return self._pairs(lambda a, b: self.own[a][b] + self.own[b][a] - self.both[a][b])

    @property
    def differ(self) -> Counts:
        """(T, T) |a xor b|: the weights that a swap from one to the other changes."""
        return self._pairs(lambda a, b: self.own[a][b] + self.own[b][a] - 2 * self.both[a][b])

    @property
    def jaccard(self) -> Matrix:
        """(T, T) |a and b| / |a or b|; None where both are empty."""
        return _ratio(self.both, self.either)

    @property
    def contained(self) -> Matrix:
        """(T, T) |a and b| / |a|: the share of the row's mask that the column's covers."""
        return _ratio(self.both, self.own)

    @property
    def usage_by_kind(self) -> dict[str, list[int]]:
        """`usage` of each kind of layer, in the order of KINDS."""
        found = self.usage_by(lambda tensor: tensor.kind)
        return {kind: found[kind] for kind in KINDS if kind in found}

    def usage_by(self, key: Callable[[TensorUse], str]) -> dict[str, list[int]]:
        """`usage` of each group of tensors, groups in the order in which they come."""
        groups: dict[str, list[TensorUse]] = {}
        for tensor in self.tensors:
            groups.setdefault(key(tensor), []).append(tensor)
        return {name: self._summed(group) for name, group in groups.items()}

    def to_dict(self) -> dict[str, Any]:
        return {
            "elements": self.elements,
            "live": self.live,
            "usage": self.usage,
            "universal": self.universal,
            "usage_by_kind": self.usage_by_kind,
            "usage_by_type": self.usage_by(lambda tensor: tensor.type),
            "either": self.either,
            "differ": self.differ,
            "jaccard": self.jaccard,
            "contained": self.contained,
            **asdict(self),
        }

    def _pairs(self, of: Callable[[int, int], int]) -> Counts:
        tasks = range(len(self.tasks))
        return [[of(a, b) for b in tasks] for a in tasks]

    def _summed(self, tensors: Sequence[TensorUse]) -> list[int]:
        total = [0] * (len(self.tasks) + 1)
        for tensor in tensors:
            for k, count in enumerate(tensor.usage):
                total[k] += count
        return total


def _ratio(over: Counts, under: Counts) -> Matrix:
    return [
        [a / b if b else None for a, b in zip(*rows, strict=True)]
        for rows in zip(over, under, strict=True)
    ]
