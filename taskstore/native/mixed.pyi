"""Of `loops/mixed.cpp`. U is uint16 or uint32; sizes must agree, else ValueError."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

_Bytes = NDArray[np.uint8]
_F32 = NDArray[np.float32]
_I32 = NDArray[np.int32]
_U = NDArray[Any]

class Matrix:
    """Refers to the arrays that it is given, which must stay as they are."""

    def __init__(self, rows: int, columns: int, item: int) -> None: ...
    def segment(self, w0_N: _U, d_N: _U, slabs: bool, /) -> int: ...
    def mask(self, segment: int, task: int, bits_P: _Bytes, /) -> None: ...
    def rest(
        self,
        segment: int,
        task: int,
        n: int,
        symbols: _Bytes,
        table_256K: _F32,
        steps_R: _F32,
        columns: int,
        first: int,
        where_E: NDArray[np.uint32],
        points_E: _F32,
        left_RM: NDArray[np.int8],
        right_RN: NDArray[np.int8],
        shifts_R: _Bytes,
        scales_M: _F32,
        /,
    ) -> None: ...
    def drop(self, task: int, /) -> None: ...
    def take(
        self, dtype: str, which_M: NDArray[np.int64], tasks_M: _I32, out_MN: _U, /
    ) -> None: ...
    def multiply(
        self,
        dtype: str,
        x_MN: _U,
        order_M: _I32,
        ends_G: _I32,
        tasks_G: _I32,
        bias_GR: _F32,
        y_MR: _U,
        threads: int,
        /,
    ) -> None: ...
