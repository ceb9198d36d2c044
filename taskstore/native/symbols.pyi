"""Of `loops/symbols.cpp`. Sizes must agree, else ValueError."""

import numpy as np
from numpy.typing import NDArray

_Bytes = NDArray[np.uint8]
_U16 = NDArray[np.uint16]

def pack(z_N: _U16, radix: int, packed: int, symbols: _Bytes, excess_N: _U16) -> int: ...
def count(symbols: _Bytes, escapes_256: NDArray[np.int64]) -> int: ...
def find(symbols: _Bytes, escapes_256K: NDArray[np.bool_], where_E: NDArray[np.uint32]) -> None: ...
def look_up(
    symbols: _Bytes, table_256K: NDArray[np.float32], values_M: NDArray[np.float32]
) -> None: ...
