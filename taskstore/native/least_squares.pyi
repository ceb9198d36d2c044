"""Of `loops/least_squares.cpp`. Pairs are of rows, sizes must agree, else ValueError."""

import numpy as np
from numpy.typing import NDArray

_F32 = NDArray[np.float32]

def least_squares(tau_SN: _F32, pairs_C2: NDArray[np.int64], out_N: _F32) -> None: ...
