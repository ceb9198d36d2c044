"""Of `loops/planes.cpp`. U is uint16 or uint32, with two planes or four of as many bytes."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

_Bytes = NDArray[np.uint8]
_U = NDArray[Any]
_U16 = NDArray[np.uint16]
_U32 = NDArray[np.uint32]

def split(x_N: _U, *planes: _Bytes) -> None: ...
def join(*planes_and_x_N: _U) -> None: ...
def ulp_split(w0_N: _U, w1_N: _U, *planes: _Bytes) -> None: ...
def ulp_join(w0_N: _U, *planes_and_w1_N: _U) -> None: ...
def add_bf16(w0_N: _U32, vector_N: _U16, w1_N: _U32) -> None: ...
