"""Of `loops/cpu.cpp`. U is uint16 or uint32; sizes must agree, else ValueError."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

_Bytes = NDArray[np.uint8]
_F32 = NDArray[np.float32]
_U = NDArray[Any]
_U16 = NDArray[np.uint16]

def select(bits_P: _Bytes, w0_N: _U, w1_N: _U, chosen_N: _U) -> None: ...
def swap(a_P: _Bytes, b_P: _Bytes, d_N: _U, w_N: _U) -> None: ...
def differ(a_P: _Bytes, b_P: _Bytes) -> bool: ...
def subtract_bf16(theta_N: _U16, theta0_N: _F32, tau_N: _F32) -> int: ...
def add_bf16(theta0_N: _F32, tau_N: _F32, w0_N: _U16, w1_N: _U16) -> None: ...
