"""What an adapter does to one weight of its base, block by block.

Legend: W (E a, b) a weight, flattened: E experts, 1 for a plain layer; d = left right, (E, a, R)
and (E, R, b), its low-rank product; v a vector, over rows (E a) or columns (b); T rows of tokens.

    LoRA    W + d
    DoRA    (v / |W + d|) (W + d), |.| the length of each row, or of each column
    IA3     v W

Everything is computed in float64 and rounded once, to the base's dtype. T replaces whole rows.

Source: Hu et al., arXiv 2106.09685; Liu et al., arXiv 2402.09353 (DoRA), 2205.05638 (IA3).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
ReadFloats = Callable[[int, int], F64]  # elements [start, stop) of W, (N,)
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
    tokens: dict[int, NDArray[Any]] = field(default_factory=dict)  # row -> its bits (b,)
    _factor: F64 | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def computes(self) -> bool:
        """Whether anything is to be computed; rows of tokens are only put in their place."""
        return self.left is not None or self.vector is not None

    def floats(self, read: ReadFloats, numel: int, start: int, stop: int) -> F64:
        """Return elements [start, stop) of the new weight, (N,); `read` gives W, of `numel`."""
        out_N = self._sum(read, start, stop)
        if self.vector is None:
            return out_N
        factor, at = self._factors(read, numel), np.arange(start, stop)
        out_N *= factor[at // self.columns if self.by_rows else at % self.columns]
        return out_N

    def _sum(self, read: ReadFloats, start: int, stop: int) -> F64:
        """W + d."""
        base_N = read(start, stop)
        if self.left is None or self.right is None:
            return base_N
        height, columns = self.left.shape[1], self.columns
        first, last = start // columns, -(-stop // columns)
        parts = []
        for e in range(first // height, -(-last // height)):
            rows = slice(max(first - e * height, 0), min(last - e * height, height))
            parts.append((self.left[e, rows] @ self.right[e]).reshape(-1))
        step_N = parts[0] if len(parts) == 1 else np.concatenate(parts)
        total_N: F64 = base_N + step_N[start - first * columns :][: stop - start]
        return total_N

    def _factors(self, read: ReadFloats, numel: int) -> F64:
        """By what rows or columns are multiplied; DoRA's lengths are taken once, in one pass."""
        assert self.vector is not None
        if not self.is_magnitude:
            return self.vector
        with self._lock:
            if self._factor is None:
                self._factor = self.vector / np.sqrt(self._squares(read, numel))
            return self._factor

    def _squares(self, read: ReadFloats, numel: int) -> F64:
        assert self.vector is not None
        squares, rows = np.zeros(self.vector.size), max(1, BLOCK // self.columns)
        for row in range(0, numel // self.columns, rows):
            stop = min((row + rows) * self.columns, numel)
            square = self._sum(read, row * self.columns, stop).reshape(-1, self.columns) ** 2
            if self.by_rows:
                squares[row : row + rows] = square.sum(1)
            else:
                squares += square.sum(0)
        return squares

    def put_tokens(self, block_N: NDArray[Any], start: int) -> NDArray[Any]:
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
