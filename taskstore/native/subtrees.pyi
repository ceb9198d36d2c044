"""Of `loops/subtrees.cpp`. W = 8; sizes must agree, else ValueError."""

import numpy as np
from numpy.typing import NDArray

_U32 = NDArray[np.uint32]

def leaves(data_N: NDArray[np.uint8], first: int, value_CW: _U32) -> None: ...
def parents(value_CW: _U32, flags: int, joined_PW: _U32) -> None: ...
