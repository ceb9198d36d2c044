"""Of `loops/add_quantised.cpp`. U is uint16 (bf16) or uint32 (float32).

Sizes must agree, else ValueError.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

_Bytes = NDArray[np.uint8]
_F32 = NDArray[np.float32]
_I8 = NDArray[np.int8]
_U = NDArray[Any]

def add(
    symbols: _Bytes,
    table_256K: _F32,
    where_E: NDArray[np.uint32],
    points_E: _F32,
    steps_R: _F32,
    columns: int,
    first: int,
    left_RM: _I8,
    right_RN: _I8,
    shifts_R: _Bytes,
    scales_M: _F32,
    below_N: _U,
    w_N: _U,
) -> None: ...
