"""Converts between a checkpoint's bit patterns and float32: IEEE, round to nearest even.

Legend: N = elements; raw_N = little-endian unsigned integers of the dtype's size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskstore.native import floats as loops

F32 = NDArray[np.float32]
EXPONENT: Mapping[str, Any] = {
    "BF16": np.uint16(0x7F80),
    "F16": np.uint16(0x7C00),
    "F32": np.uint32(0x7F800000),
}


def to_float32(raw_N: NDArray[Any], dtype: str) -> F32:
    """BF16, F16 or F32 bits (N,) -> float32 (N,); every value is kept exactly."""
    if dtype == "F32":
        return raw_N.view(np.float32)
    if dtype == "F16":
        return raw_N.view(np.float16).astype(np.float32)
    assert dtype == "BF16", dtype
    values_N = np.empty(raw_N.size, np.float32)
    loops.widen_bf16(raw_N, values_N)
    return values_N


def from_float32(values_N: F32, dtype: str) -> NDArray[Any]:
    """float32 (N,) -> bits (N,) of that dtype; overflow gives infinity, NaN stays NaN."""
    if dtype == "F32":
        return values_N.view(np.uint32)
    if dtype == "F16":
        with np.errstate(over="ignore"):
            return values_N.astype(np.float16).view(np.uint16)
    assert dtype == "BF16", dtype
    raw_N = np.empty(values_N.size, np.uint16)
    loops.round_bf16(values_N, raw_N)
    return raw_N


def all_finite(raw_N: NDArray[Any], dtype: str) -> bool:
    """False where a float of BF16, F16, F32, F64 or C64 is NaN or infinite; True for the rest."""
    if dtype == "F64":
        return bool(np.isfinite(raw_N.view(np.float64)).all())
    if dtype == "C64":
        return bool(np.isfinite(raw_N.view(np.complex64)).all())
    if dtype not in EXPONENT:
        return True
    exponent = EXPONENT[dtype]
    return loops.largest_exponent(raw_N, int(exponent)) != int(exponent)
