"""Of `loops/sums.cpp`. Rows may be parts of wider ones; sizes must agree, else ValueError."""

import numpy as np
from numpy.typing import NDArray

_F32 = NDArray[np.float32]
_Bools = NDArray[np.bool_]

def weighted(tau_SN: _F32, weight_S: _F32, least_S: _F32, out_N: _F32) -> None: ...
def mean(tau_SN: _F32, weight_S: _F32, least_S: _F32, out_N: _F32) -> None: ...
def of_sign(
    tau_SN: _F32, weight_S: _F32, least_S: _F32, up_N: _Bools, mean: bool, out_N: _F32
) -> None: ...
