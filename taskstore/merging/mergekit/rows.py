"""Weights whose rows follow the tokens of another vocabulary.

Legend: V = tokens of the result, M = models that have the tensor, W = elements of a row, R = rows
of one read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskstore.kernels import cpu, floats
from taskstore.models.checkpoint import Checkpoint, Reader, TensorInfo

I64 = NDArray[np.int64]
ZERO, MEAN = -1, -2  # in the place of a model
FEW = 1 << 12  # rows that are added up at a time


@dataclass(frozen=True)
class Part:
    """One tensor of one model, under the name that it has there."""

    model: Checkpoint
    name: str

    @property
    def info(self) -> TensorInfo:
        return self.model.tensors[self.name]


@dataclass
class Rows:
    """A tensor of the result, as one of the models has it.

    parts    the tensor in all models that are merged for it
    row_MV   the row of each token in each of them, -1 where it lacks the token
    own      which of them this is
    from_V   the model whose row a token takes here, or ZERO or MEAN
    at_V     that row
    fill     rows behind those of the tokens: their mean
    """

    parts: Sequence[Part]
    row_MV: I64
    own: int
    from_V: I64
    at_V: I64
    fill: int = 0

    @property
    def info(self) -> TensorInfo:
        given, tokens = self.parts[self.own].info, self.row_MV.shape[1]
        return TensorInfo(given.dtype, (tokens + self.fill, *given.shape[1:]))

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Elements [start, stop) as bits of the model's dtype."""
        width, tokens = math.prod(self.info.shape[1:]), self.row_MV.shape[1]
        first, last = start // width, -(-stop // width)
        bits = self._rows(first, min(last, tokens))
        if last > tokens:
            behind = np.tile(self._mean_row, last - max(first, tokens))
            bits = np.concatenate([bits, behind])
        return bits[start - first * width : stop - first * width]

    def _rows(self, first: int, last: int) -> NDArray[Any]:
        """The rows of tokens [first, last), flat."""
        if first >= last:
            return np.empty(0, floats.from_float32(np.empty(0, np.float32), self.info.dtype).dtype)
        from_R, row_R = self.from_V[first:last], self.at_V[first:last]
        jump_R = (np.diff(from_R) != 0) | (np.diff(row_R) != 1) | (from_R[1:] < 0)
        cuts = [0, *(np.flatnonzero(jump_R) + 1).tolist(), last - first]
        pieces = [
            self._run(int(from_R[a]), int(row_R[a]), b - a, first + a) for a, b in pairwise(cuts)
        ]
        bits: NDArray[Any] = np.concatenate(pieces)
        return bits

    @cached_property
    def _mean_row(self) -> NDArray[Any]:
        """The mean of all tokens' rows, bits (W,); read once, a few rows at a time."""
        width, tokens = math.prod(self.info.shape[1:]), self.row_MV.shape[1]
        total_W = np.zeros(width)
        for first in range(0, tokens, FEW):
            bits = self._rows(first, min(first + FEW, tokens))
            total_W += (
                floats.to_float32(bits, self.info.dtype).reshape(-1, width).sum(0, dtype="f8")
            )
        return floats.from_float32((total_W / tokens).astype(np.float32), self.info.dtype)

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


def taken(
    row_MV: I64, own: int, from_V: I64, given: Mapping[int, tuple[int, int, bool]]
) -> tuple[I64, I64]:
    """The model whose row each token takes in model `own`, and the row, (V,) each.

    `given` says it of some tokens: (model, or ZERO; row; also where `own` has the token).
    """
    from_V = np.where(row_MV[own] >= 0, own, from_V)
    at_V = row_MV[np.maximum(from_V, 0), np.arange(from_V.size)]
    for token, (model, row, force) in given.items():
        if force or row_MV[own, token] < 0:
            from_V[token], at_V[token] = model, row
    return from_V, at_V


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
