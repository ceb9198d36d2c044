"""Of `loops/delta_tables.cpp`. Sizes must agree, else ValueError."""

import numpy as np
from numpy.typing import NDArray

_Bytes = NDArray[np.uint8]
_U16 = NDArray[np.uint16]
_I16 = NDArray[np.int16]
_Counts = NDArray[np.int64]

def sums(octaves_N: _I16, first: int, rows_2R: _Counts, columns_2K: _Counts) -> None: ...
def share(codes_CS: _Bytes, weights: _Counts, shares_CS: _U16) -> bool: ...
def shares_of(tables: _Bytes, at: int, weights: _Counts, shares_CS: _U16) -> bool: ...
