"""What an adapter does to one weight of its base, block by block (SPEC.md section 9).

Legend: W (E a, b) a weight, flattened: E experts, 1 for a plain layer; d = left right, (E, a, R)
and (E, R, b), its low-rank product; v a vector, over rows (E a) or columns (b); T rows of tokens.

    LoRA    W + d
    DoRA    (v / |W + d|) (W + d), |.| the length of each row, or of each column
    IA3     v W

Everything is computed in float64 and rounded once, to the base's dtype. T replaces whole rows. All
sums have a fixed order, so every machine makes the same bits.

Source: Hu et al., arXiv 2106.09685; Liu et al., arXiv 2402.09353 (DoRA), 2205.05638 (IA3).
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskstore.format.members import Made
from taskstore.kernels import floats
from taskstore.models.checkpoint import Reader
from taskstore.native import products as loops

F64 = NDArray[np.float64]
Bits = NDArray[Any]
Read = Callable[[int, int], Bits]  # elements [start, stop) of W as bits, (N,)
BLOCK = 1 << 20


@dataclass
class Step:
    """The changes of one tensor, which has `columns` elements in a row."""

    columns: int
    left: F64 | None = None  # (E, a, R)
    right: F64 | None = None  # (E, R, b)
    vector: F64 | None = None
    by_rows: bool = True
    is_magnitude: bool = False  # DoRA's: the length that rows or columns get
    tokens: dict[int, Bits] = field(default_factory=dict)  # row -> its bits (b,)
    _factor: F64 | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def made(self, read: Read, dtype: str, numel: int, start: int, stop: int) -> Bits:
        """Return elements [start, stop) of the new weight, bits (N,); `read` gives W."""
        if self.left is None and self.vector is None:
            return self._with_tokens(read(start, stop), start)

        def values(first: int, last: int) -> F64:
            return floats.to_float32(read(first, last), dtype).astype(np.float64)

        with np.errstate(all="ignore"):  # what overflows is refused as infinite
            weights_N = self._floats(values, numel, start, stop).astype(np.float32)
        return self._with_tokens(floats.from_float32(weights_N, dtype), start)

    def _floats(self, read: Callable[[int, int], F64], numel: int, start: int, stop: int) -> F64:
        out_N = self._sum(read, start, stop)
        if self.vector is None:
            return out_N
        factor, at = self._factors(read, numel), np.arange(start, stop)
        out_N *= factor[at // self.columns if self.by_rows else at % self.columns]
        return out_N

    def _sum(self, read: Callable[[int, int], F64], start: int, stop: int) -> F64:
        """W + d."""
        out_N = read(start, stop)
        if self.left is None or self.right is None:
            return out_N
        each, at = self.left.shape[1] * self.columns, start
        while at < stop:
            e, end = at // each, min(stop, (at // each + 1) * each)
            part_N = out_N[at - start : end - start]
            loops.add_product(self.left[e], self.right[e], at - e * each, part_N)
            at = end
        return out_N

    def _factors(self, read: Callable[[int, int], F64], numel: int) -> F64:
        """By what rows or columns are multiplied; DoRA's lengths are taken once, in one pass."""
        assert self.vector is not None
        if not self.is_magnitude:
            return self.vector
        with self._lock:
            if self._factor is None:
                self._factor = self.vector / np.sqrt(self._squares(read, numel))
            return self._factor

    def _squares(self, read: Callable[[int, int], F64], numel: int) -> F64:
        assert self.vector is not None
        squares, rows = np.zeros(self.vector.size), max(1, BLOCK // self.columns)
        for row in range(0, numel // self.columns, rows):
            stop = min((row + rows) * self.columns, numel)
            w_OI = self._sum(read, row * self.columns, stop).reshape(-1, self.columns)
            if self.by_rows:
                loops.add_squares_of_rows(w_OI, squares[row : row + rows])
            else:
                loops.add_squares_of_columns(w_OI, squares)
        return squares

    def _with_tokens(self, block_N: Bits, start: int) -> Bits:
        """Put the rows of tokens into a block that begins at element `start`."""
        stop, columns = start + block_N.size, self.columns
        rows = [r for r in self.tokens if r * columns < stop and (r + 1) * columns > start]
        out_N = block_N.copy() if rows else block_N
        for row in rows:
            first, last = max(start, row * columns), min(stop, (row + 1) * columns)
            out_N[first - start : last - start] = self.tokens[row][
                first - row * columns : last - row * columns
            ]
        return out_N


def step_of(made: Made, dtype: str, shape: Sequence[int], factor: Callable[[str], F64]) -> Step:
    """Return the step that makes a tensor; `factor` reads one of the adapter's, in float64."""
    step = Step(math.prod(shape[1:]), by_rows=not made.columns, is_magnitude=made.length)
    if made.a is not None and made.b is not None:
        a, b = factor(made.a), factor(made.b)
        rank = a.shape[0] // made.experts
        left = b.reshape(b.shape[0], rank, made.experts).transpose(2, 0, 1)
        right = a.reshape(made.experts, rank, -1)
        if made.turned:
            left, right = right.transpose(0, 2, 1), left.transpose(0, 2, 1)
        if made.expert is not None:
            e, rows = made.expert, slice(made.row, made.row + shape[0])
            left, right = left[e : e + 1, rows], right[e : e + 1]
        step.left = np.ascontiguousarray(left * made.scale)
        step.right = np.ascontiguousarray(right)
        step.columns = step.right.shape[2]
    if made.vector is not None:
        step.vector = factor(made.vector).reshape(-1)
    if made.tokens is not None:
        rows_TI = factor(made.tokens)
        bits = floats.from_float32(rows_TI.astype(np.float32).reshape(-1), dtype)
        step.tokens = dict(zip(made.rows or (), bits.reshape(len(rows_TI), -1), strict=True))
    return step


def read_factor(adapter: Reader, name: str) -> F64:
    """Read one of an adapter's tensors, float64."""
    info = adapter.tensors[name]
    raw_N = adapter.read(name, 0, info.numel)
    return floats.to_float32(raw_N, info.dtype).astype(np.float64).reshape(info.shape)


def same_tensor(adapter: Reader, a: str, b: str) -> bool:
    """Tell whether two of an adapter's tensors are one, bit for bit."""
    info, read = adapter.tensors[a], adapter.read
    ends = ((at, min(at + BLOCK, info.numel)) for at in range(0, info.numel, BLOCK))
    same = info == adapter.tensors[b]
    return same and all(np.array_equal(read(a, *end), read(b, *end)) for end in ends)
