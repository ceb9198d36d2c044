"""Of `loops/tall.cpp`. U is uint16 or uint32; sizes must agree, else ValueError."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

_F32 = NDArray[np.float32]
_U = NDArray[Any]

def tall(
    tau_N: _F32,
    merged_N: _F32,
    w0_N: _U,
    w1_N: _U,
    lam: float,
    one_sided: bool,
    bits_P: NDArray[np.uint8],
    chosen_N: _U,
) -> None: ...
