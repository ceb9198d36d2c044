"""Of `loops/products.cpp`. Sizes must agree, else ValueError."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

_F32 = NDArray[np.float32]
_F64 = NDArray[np.float64]
_U16 = NDArray[np.uint16]

def inner(x_SN: _F32, runs: NDArray[np.int64], length_of_run: int, sums_SS: _F64) -> None: ...
def four_sums(
    w0_N: _F32, x_N: _F32, rebuilt_N: NDArray[Any], one_in: int, sums_4: _F64
) -> None: ...
def four_sums_of_bf16(
    w0_N: _U16, x_N: _U16, rebuilt_N: _U16, one_in: int, sums_4: _F64
) -> None: ...
def add_product(left_OR: _F64, right_RI: _F64, start: int, w_N: _F64) -> None: ...
def add_squares_of_rows(w_OI: _F64, squares_O: _F64) -> None: ...
def add_squares_of_columns(w_OI: _F64, squares_I: _F64) -> None: ...
