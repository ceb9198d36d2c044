"""Of `loops/updates.cpp`. R = rank, K = rows, N = columns, L = elements from `first` of row 0 on.

All sums of products are exact: the caller proves it. Sizes must agree, else ValueError.
"""

import numpy as np
from numpy.typing import NDArray

_I16 = NDArray[np.int16]
_F64 = NDArray[np.float64]
_U16 = NDArray[np.uint16]
_U32 = NDArray[np.uint32]

def predict_bf16(
    left_RK: _I16, scales_K: _F64, right_RN: _F64, first: int, w0_L: _U16, out_L: _U16
) -> None: ...
def predict_f16(
    left_RK: _I16, scales_K: _F64, right_RN: _F64, first: int, w0_L: _U16, out_L: _U16
) -> None: ...
def predict_f32(
    left_RK: _I16, scales_K: _F64, right_RN: _F64, first: int, w0_L: _U32, out_L: _U32
) -> None: ...
