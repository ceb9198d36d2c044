"""Of `loops/strides.cpp`. U is uint16 or uint32; sizes must agree, else ValueError."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

_Bytes = NDArray[np.uint8]
_U = NDArray[Any]
_U32 = NDArray[np.uint32]
_U64 = NDArray[np.uint64]

def plain(bytes_N: _Bytes, kept: int) -> tuple[int, int]: ...
def encode(
    w0_N: _U,
    w_N: _U,
    shift: int,
    unused: int,
    kept: int,
    classes: _Bytes,
    place: _U64,
    sorted_N: _Bytes,
    words: _U32,
) -> int: ...
def decode(
    w0_N: _U,
    shift: int,
    unused: int,
    kept: int,
    classes: _Bytes,
    place: _U64,
    sorted_N: _Bytes,
    plain: _Bytes,
    w_N: _U,
) -> bool: ...
