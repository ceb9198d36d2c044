"""Weights whose rows follow the tokens of another vocabulary.

Legend: V = tokens of the result, M = models that have the tensor, W = elements of a row, R = rows
of one read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskstore.kernels import cpu, floats
from taskstore.models.checkpoint import Checkpoint, Reader, TensorInfo

I64 = NDArray[np.int64]
ZERO, MEAN = -1, -2  # in the place of a model


@dataclass(frozen=True)
class Part:
    """One tensor of one model, under the name that it has there."""

    model: Checkpoint
    name: str

    @property
    def info(self) -> TensorInfo:
        return self.model.tensors[self.name]


@dataclass(frozen=True)
class Rows:
    """A tensor of the result, as one of the models has it.

    parts    the tensor in all models that are merged for it
    row_MV   the row of each token in each of them, -1 where it lacks the token
    own      which of them this is
    from_V   the model whose row a token takes where this one lacks it, or ZERO or MEAN
    """

    parts: Sequence[Part]
    row_MV: I64
    own: int
    from_V: I64

    @property
    def info(self) -> TensorInfo:
        given = self.parts[self.own].info
        return TensorInfo(given.dtype, (self.row_MV.shape[1], *given.shape[1:]))

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Elements [start, stop) as bits of the model's dtype."""
        width = math.prod(self.info.shape[1:])
        first, last = start // width, -(-stop // width)
        own_R = self.row_MV[self.own, first:last]
        from_R = np.where(own_R >= 0, self.own, self.from_V[first:last])
        row_R = self.row_MV[np.maximum(from_R, 0), np.arange(first, last)]
        jump_R = (np.diff(from_R) != 0) | (np.diff(row_R) != 1) | (from_R[1:] < 0)
        cuts = [0, *(np.flatnonzero(jump_R) + 1).tolist(), last - first]
        pieces = [
            self._run(int(from_R[a]), int(row_R[a]), b - a, first + a) for a, b in pairwise(cuts)
        ]
        bits: NDArray[Any] = np.concatenate(pieces)
        return bits[start - first * width : stop - first * width]

    def _run(self, model: int, row: int, count: int, token: int) -> NDArray[Any]:
        """`count` rows of a model from `row` on; what stands for them where no one has `token`."""
        width, dtype = math.prod(self.info.shape[1:]), self.info.dtype
        if model >= 0:
            part = self.parts[model]
            bits = part.model.read(part.name, row * width, (row + count) * width)
            return cpu.cast(bits, part.info.dtype, dtype)
        total_W = np.zeros(width, np.float32)
        having = [m for m in range(len(self.parts)) if self.row_MV[m, token] >= 0]
        for m in having if model == MEAN else ():
            part, at = self.parts[m], int(self.row_MV[m, token]) * width
            bits = part.model.read(part.name, at, at + width)
            total_W += floats.to_float32(bits, part.info.dtype)
        if model == MEAN:
            total_W /= np.float32(len(having))
        return floats.from_float32(total_W, dtype)


def instead(row_MV: I64, base: int | None) -> I64:
    """Where models that lack a token take its row from, (V,).

    The only model that has it; else the base, number `base`, if it has it; else the mean of all
    that do; zeros where none does.
    """
    has_MV = row_MV >= 0
    count_V = has_MV.sum(axis=0)
    from_V = np.where(count_V == 1, has_MV.argmax(axis=0), MEAN)
    if base is not None:
        from_V = np.where((count_V > 1) & has_MV[base], base, from_V)
    return np.where(count_V == 0, ZERO, from_V).astype(np.int64)


class RowsReader:
    """A reader some of whose tensors have other rows."""

    def __init__(self, inner: Reader, moved: Mapping[str, Rows]) -> None:
        self._inner, self._moved = inner, moved
        self.tensors: dict[str, TensorInfo] = dict(inner.tensors)
        self.tensors |= {name: rows.info for name, rows in moved.items()}

    def read(self, name: str, start: int, stop: int) -> NDArray[Any]:
        if name in self._moved and start < stop:
            return self._moved[name].read(start, stop)
        return self._inner.read(name, start, stop)

    def read_into(self, name: str, start: int, out: NDArray[Any]) -> None:
        if name in self._moved:
            out[:] = self.read(name, start, start + out.size)
        else:
            self._inner.read_into(name, start, out)

    def close(self) -> None:
        """The models are closed by who opened them."""
