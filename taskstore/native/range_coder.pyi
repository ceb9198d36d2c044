"""Of `loops/range_coder.cpp`. Sizes must agree, else ValueError."""

import numpy as np
from numpy.typing import NDArray

_Bytes = NDArray[np.uint8]
_U16 = NDArray[np.uint16]
_U32 = NDArray[np.uint32]
_I8 = NDArray[np.int8]

def put_few(where_E: _U32, z_E: _U16, out: _Bytes) -> int: ...
def few(stream: _Bytes, n: int, where_E: _U32, z_E: _U16) -> bool: ...
def place(where_E: _U32, z_E: _U16, symbols: _Bytes) -> None: ...
def put_factors(
    scales_M: _Bytes, heads_R3: _Bytes, left_RM: _I8, right_RN: _I8, out: _Bytes
) -> int: ...
def factors(
    stream: _Bytes, scales_M: _Bytes, heads_R3: _Bytes, left_RM: _I8, right_RN: _I8
) -> bool: ...
