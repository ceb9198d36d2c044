"""Of `loops/rans.cpp`. Sizes must agree, else ValueError."""

import numpy as np
from numpy.typing import NDArray

_Bytes = NDArray[np.uint8]
_U16 = NDArray[np.uint16]
_U32 = NDArray[np.uint32]
_Counts = NDArray[np.int64]

def count(bytes_N: _Bytes, scales_N: _Bytes, contexts_E: _Bytes, counts_CS: _Counts) -> None: ...
def put(
    bytes_N: _Bytes,
    scales_N: _Bytes,
    contexts_E: _Bytes,
    shares_CS: _U16,
    states: _U32,
    words: _U16,
) -> int: ...
def take(
    states: _U32,
    words: _U16,
    scales_N: _Bytes,
    contexts_E: _Bytes,
    shares_CS: _U16,
    bytes_N: _Bytes,
) -> bool: ...
