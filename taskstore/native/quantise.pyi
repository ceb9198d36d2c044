"""Of `loops/quantise.cpp`. Sizes must agree, and rows must hold all elements, else ValueError."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

_Bytes = NDArray[np.uint8]
_F32 = NDArray[np.float32]
_F64 = NDArray[np.float64]
_U16 = NDArray[np.uint16]

def sizes(
    tau_N: _F32, columns: int, first: int, step: float, size_R: _F64, steps_R: _F32
) -> None: ...
def quantise(
    tau_N: _F32,
    steps_R: _F32,
    columns: int,
    first: int,
    shift: float,
    skip: int,
    z_N: _U16,
    sums_9: _F64,
    counts_9: NDArray[np.int64],
) -> None: ...
def points(z_N: NDArray[Any], low_8: _Bytes, offset: int, points_N: _F32) -> None: ...
def along(
    tau_N: _F32,
    z_N: _U16,
    columns: int,
    first: int,
    low_8: _Bytes,
    offset: int,
    along_R: _F64,
) -> None: ...
def stretched(
    tau_N: _F32,
    part_N: _F32,
    points_N: _F32,
    columns: int,
    first: int,
    size_R: _F64,
    steps_R: _F64,
    least: float,
    most: float,
    stretch_R: _F64,
) -> None: ...
def scale(values_N: _F32, steps_R: _F32, columns: int, first: int) -> None: ...
