"""Adds a quantised vector to weights on the CPU: W = round(W_below + v), in one pass.

It works on 1,536 elements at a time, which are whole bytes of every radix: their symbols are looked
up, scaled and added in the first-level cache, in 0.6 ns per bf16 weight on one core.
`Quantised.values` and `cpu.add` do the same over float32 values of the whole chunk and take five
times as long. The operations and their order are the same, and so are the bits; the suite compares
them. F16, which is rare, takes the long way.

Legend: N = elements of a chunk, R = its rows, K = symbols in a byte, E = escapes; U = the dtype's
unsigned integer view.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskstore.kernels import cpu
from taskstore.kernels.factored.low_rank import NONE, add_elements
from taskstore.kernels.floats import rounded, to_float32, widened
from taskstore.kernels.jit import jit
from taskstore.kernels.quantise import Quantised

Bytes = NDArray[np.uint8]
F32 = NDArray[np.float32]
U = NDArray[Any]
BLOCK = 1536
_INFINITY = np.int32(0x7F800000)
_OVERFLOW_BF16 = np.int32(0x7F7F8000)  # bits of the least float32 that rounds to infinity


def add(vector: Quantised, below_N: U, w_N: U, dtype: str) -> None:
    """round(W_below + v) into `w_N`, W_below where that is not finite; bits of `dtype`.

    The two are not the same memory.
    """
    assert vector.n == below_N.size == w_N.size
    if dtype == "F16":
        np.copyto(w_N, cpu.add(to_float32(below_N, dtype), vector.values(), below_N, dtype))
        return
    points_E, rows = vector.points.of(vector.z_E), vector.rows
    steps_R, table_256K = rows.steps(), vector.table()
    escapes = vector.where_E, points_E
    low_rank = (vector.low_rank or NONE).floats()
    ends = (rows.columns, rows.first, below_N, w_N)
    _add(vector.symbols, table_256K, escapes, steps_R, low_rank, *ends)


@jit
def _add(
    symbols: Bytes,
    table_256K: F32,
    escapes: tuple[NDArray[np.uint32], F32],
    steps_R: F32,
    low_rank: tuple[F32, F32, F32],
    columns: int,
    first: int,
    below_N: U,
    w_N: U,
) -> None:
    """Small loops one after the other, each vectorised; `w_N` says which dtype."""
    where_E, points_E = escapes
    left_MR, right_RN, scales_M = low_rank
    block, packed, found = np.empty(BLOCK, np.float32), table_256K.shape[1], 0
    for start in range(0, w_N.size, BLOCK):
        stop = min(start + BLOCK, w_N.size)
        _look_up(symbols[start // packed : (stop + packed - 1) // packed], table_256K, block)
        while found < where_E.size and where_E[found] < stop:
            block[where_E[found] - start] = points_E[found]
            found += 1
        values = block[: stop - start]
        _scale(steps_R, columns, first + start, values)
        if left_MR.size:
            add_elements(left_MR, right_RN, scales_M, first + start, values)
        if w_N.itemsize == 2:
            _round_bf16(values, below_N[start:stop], w_N[start:stop])
        else:
            _round_f32(values, below_N[start:stop], w_N[start:stop])


@jit
def _look_up(symbols: Bytes, table_256K: F32, values: F32) -> None:
    """Write the values of each byte together, in one load and one store for two or four."""
    packed = table_256K.shape[1]
    if packed == 4:
        for b in range(symbols.size):
            row = table_256K[symbols[b]]
            v0, v1, v2, v3 = row[0], row[1], row[2], row[3]
            values[4 * b], values[4 * b + 1] = v0, v1
            values[4 * b + 2], values[4 * b + 3] = v2, v3
    elif packed == 3:
        for b in range(symbols.size):
            row = table_256K[symbols[b]]
            v0, v1, v2 = row[0], row[1], row[2]
            values[3 * b], values[3 * b + 1], values[3 * b + 2] = v0, v1, v2
    elif packed == 2:
        for b in range(symbols.size):
            row = table_256K[symbols[b]]
            v0, v1 = row[0], row[1]
            values[2 * b], values[2 * b + 1] = v0, v1
    else:
        for b in range(symbols.size):
            values[b] = table_256K[symbols[b], 0]


@jit
def _scale(steps_R: F32, columns: int, first: int, values: F32) -> None:
    """Scale by the steps of the rows; value 0 stands `first` elements after the start of row 0."""
    start, r = 0, first // columns
    while start < values.size:
        stop = min(values.size, (r + 1) * columns - first)
        row, step = values[start:stop], steps_R[r]  # loops from 0 on: others stay scalar
        for i in range(row.size):
            row[i] *= step
        start, r = stop, r + 1


@jit
def _round_bf16(values: F32, below: U, w: U) -> None:
    """Overflow has a loop of its own, since nearly no block has one: a choice in the first loop
    would take half as long again.
    """
    largest = np.int32(0)
    for i in range(w.size):
        u = np.float32(widened(below[i]) + values[i]).view(np.uint32)
        largest = max(largest, np.int32(u & np.uint32(0x7FFFFFFF)))
        w[i] = rounded(u)
    if largest < _OVERFLOW_BF16:
        return
    for i in range(w.size):
        u = np.float32(widened(below[i]) + values[i]).view(np.uint32)
        if np.int32(u & np.uint32(0x7FFFFFFF)) >= _OVERFLOW_BF16:
            w[i] = below[i]


@jit
def _round_f32(values: F32, below: U, w: U) -> None:
    for i in range(w.size):
        u = np.float32(np.uint32(below[i]).view(np.float32) + values[i]).view(np.uint32)
        bad = np.int32(u & np.uint32(0x7FFFFFFF)) >= _INFINITY
        w[i] = u ^ ((u ^ below[i]) & np.uint32(np.int32(0) - np.int32(bad)))
