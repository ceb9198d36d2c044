"""Of `loops/deltas.cpp`. U is uint16 or uint32; sizes must agree, else ValueError."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

_Bytes = NDArray[np.uint8]
_U = NDArray[Any]
_U16 = NDArray[np.uint16]
_U32 = NDArray[np.uint32]
_I16 = NDArray[np.int16]

def scales(
    w0_N: _U,
    unused: int,
    m: int,
    g: int,
    rows: _Bytes,
    columns: _Bytes,
    first: int,
    scales_N: _Bytes,
) -> None: ...
def octaves(w0_N: _U, w_N: _U, unused: int, m: int, octaves_N: _I16) -> None: ...
def symbols(w0_N: _U, w_N: _U, unused: int, m: int, g: int, f: int, symbols_N: _Bytes) -> None: ...
def plain(
    w0_N: _U, w_N: _U, symbols_N: _Bytes, unused: int, m: int, g: int, f: int, words: _U32
) -> int: ...
def decode(
    w0_N: _U,
    unused: int,
    m: int,
    g: int,
    f: int,
    rows: _Bytes,
    columns: _Bytes,
    first: int,
    contexts_E: _Bytes,
    shares_CS: _U16,
    coded: _Bytes,
    plain: _Bytes,
    w_N: _U,
) -> int: ...
