"""Of `loops/philox.cpp`. G = 4,096; sizes must agree, else ValueError."""

import numpy as np
from numpy.typing import NDArray

_F32 = NDArray[np.float32]
_U32 = NDArray[np.uint32]

def group(stream_4: _U32, number: int, out_G: _U32) -> None: ...
def words(stream_4: _U32, start: int, out_N: _U32) -> None: ...
def drop(
    tau_N: _F32, stream_4: _U32, start: int, below: int, share: float, out_N: _F32
) -> None: ...
