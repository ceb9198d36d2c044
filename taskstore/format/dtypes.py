"""Dtypes by their safetensors names: sizes, and which of them a task vector is taken of."""

from __future__ import annotations

import math
from collections.abc import Sequence

ITEMSIZE = {
    "BF16": 2,
    "F16": 2,
    "F32": 4,
    "BOOL": 1,
    "I8": 1,
    "U8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "F8_E8M0": 1,
    "F8_E4M3FNUZ": 1,
    "F8_E5M2FNUZ": 1,
    "I16": 2,
    "U16": 2,
    "I32": 4,
    "U32": 4,
    "I64": 8,
    "U64": 8,
    "F64": 8,
    "C64": 8,
}
MASKED = frozenset({"BF16", "F16", "F32"})
MAX_TENSOR_BYTES = 1 << 46


def numel(shape: Sequence[int]) -> int:
    return math.prod(shape)


def nbytes(dtype: str, shape: Sequence[int]) -> int:
    """Return the bytes of a dense tensor; `dtype` must be known."""
    return numel(shape) * ITEMSIZE[dtype]


def vector_bytes(bits: float, shape: Sequence[int]) -> int:
    """Return about the memory of a quantised vector of `bits` bits per element.

    Two weights in a byte; one where steps are fine: norms and biases, more than 3 bits.
    """
    n = numel(shape)
    return n if bits > 3 or len(shape) < 2 else (n + 1) // 2


def plain_codec(dtype: str) -> str:
    """Return the codec of a tensor that is coded on its own."""
    return "rotated" if dtype in MASKED else "planes"
