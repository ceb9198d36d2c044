"""Adds a quantised vector to weights on the CPU: W = round(W_below + v), in one pass.

It works on 1,536 elements at a time, which are whole bytes of every radix: their symbols are looked
up, scaled and added in the first-level cache. `Quantised.values` and `cpu.add` do the same over
float32 values of the whole chunk, which takes longer. The operations and their order are the same,
and so are the bits; the suite compares them. F16, which is rare, takes the long way.

Legend: N = elements of a chunk, R = its rows, K = symbols in a byte, E = escapes; U = the dtype's
unsigned integer view.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskstore.kernels import cpu
from taskstore.kernels.factored.low_rank import NONE
from taskstore.kernels.floats import to_float32
from taskstore.kernels.quantise import Quantised
from taskstore.native import add_quantised as loops

U = NDArray[Any]
BLOCK = 1536


def add(vector: Quantised, below_N: U, w_N: U, dtype: str) -> None:
    """round(W_below + v) into `w_N`, W_below where that is not finite; bits of `dtype`.

    The two are not the same memory.
    """
    assert vector.n == below_N.size == w_N.size
    if dtype == "F16":
        np.copyto(w_N, cpu.add(to_float32(below_N, dtype), vector.values(), below_N, dtype))
        return
    rows, part = vector.rows, vector.low_rank or NONE
    loops.add(
        vector.symbols,
        vector.table(),
        vector.where_E,
        vector.points.of(vector.z_E),
        rows.steps(),
        rows.columns,
        rows.first,
        part.left_RM,
        part.right_RN,
        part.shifts_R,
        part.scales(),
        below_N,
        w_N,
    )
