"""Of `loops/guided.cpp`. Sizes must agree, else ValueError."""

import numpy as np
from numpy.typing import NDArray

_Bytes = NDArray[np.uint8]
_U16 = NDArray[np.uint16]
_U32 = NDArray[np.uint32]

def cells(tau_N: _U32, cells_N: _Bytes) -> None: ...
def model(cells_N: _Bytes, bits_P: _Bytes, rates: _Bytes, ones_N: _U16) -> None: ...
def put(ones_N: _U16, bits_P: _Bytes, words_N: _U16, states: _U32) -> int: ...
def get(
    cells_N: _Bytes, words: _U16, mine: int, other: int, rates: _Bytes, bits_P: _Bytes
) -> bool: ...
