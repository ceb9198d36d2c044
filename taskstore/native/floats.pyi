"""Of `loops/floats.cpp`. Sizes must agree, else ValueError."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

_F32 = NDArray[np.float32]
_U16 = NDArray[np.uint16]

def widen_bf16(raw_N: _U16, values_N: _F32) -> None: ...
def round_bf16(values_N: _F32, raw_N: _U16) -> None: ...
def largest_exponent(raw_N: NDArray[Any], exponent: int) -> int: ...
