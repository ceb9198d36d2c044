"""Of `loops/steps.cpp`. Sizes must agree, else ValueError."""

import numpy as np
from numpy.typing import NDArray

_Bytes = NDArray[np.uint8]
_U16 = NDArray[np.uint16]
_U64 = NDArray[np.uint64]

def steps_to(w0_N: _U16, w_N: _U16, z_N: _U16, bytes_N: _Bytes) -> None: ...
def encode(
    w0_N: _U16,
    w_N: _U16,
    shift: int,
    classes: _Bytes,
    place: _U64,
    sorted_N: _Bytes,
    escapes_N: _U16,
) -> int: ...
def decode(
    w0_N: _U16,
    shift: int,
    classes: _Bytes,
    place: _U64,
    sorted_N: _Bytes,
    escapes_E: _U16,
    w_N: _U16,
) -> bool: ...
