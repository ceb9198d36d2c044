"""Of `loops/low_rank.cpp`. Factors may have any strides; sizes must agree, else ValueError."""

import numpy as np
from numpy.typing import NDArray

_Bytes = NDArray[np.uint8]
_I8 = NDArray[np.int8]
_F32 = NDArray[np.float32]

def add(
    left_RM: _I8, right_RN: _I8, shifts_R: _Bytes, scales_M: _F32, first: int, values_N: _F32
) -> None: ...
