"""Of `loops/classes.cpp`. U is uint16 or uint32; sizes must agree, else ValueError."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

_Bytes = NDArray[np.uint8]
_U = NDArray[Any]
_U16 = NDArray[np.uint16]
_U32 = NDArray[np.uint32]
_U64 = NDArray[np.uint64]
_Counts = NDArray[np.int64]

def count_sizes(w0_N: _U, shift: int, by_size: _Counts) -> None: ...
def arrange(
    w0_N: _U16,
    shift: int,
    classes: _Bytes,
    place: _U64,
    w_N: _U16,
    at_N: _U32,
    sorted_N: _U16,
) -> None: ...
def gather(w_N: _U16, at_N: _U32, sorted_N: _U16) -> None: ...
def scatter(sorted_N: _U16, at_N: _U32, w_N: _U16) -> None: ...
def used_bits(w0_N: _U, w_N: _U) -> int: ...
