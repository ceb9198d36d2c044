"""Of `loops/fused.cpp`. Sizes must agree, else ValueError."""

import numpy as np
from numpy.typing import NDArray

_Bits = NDArray[np.uint16]

def sum_tall_bf16(
    theta_SN: _Bits,
    w0_N: _Bits,
    lam_S: NDArray[np.float32],
    one_in: int,
    w1_N: _Bits,
    bits_SP: NDArray[np.uint8],
    chosen_SN: _Bits,
    ones_S: NDArray[np.int64],
    differs_S: NDArray[np.bool_],
    sums_S4: NDArray[np.float64],
) -> int: ...
