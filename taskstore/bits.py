"""Boolean masks and their packed form.

Legend: N = elements, P = ceil(N / 8) bytes. Bit i is bit i % 8 of byte i // 8, counted from the
least significant (LSB first, numpy's `bitorder="little"`); the unused high bits of the last byte
are zero. SPEC.md section 4 works one mask by hand.

Set operations run on packed bytes through bitarray, never on unpacked booleans.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from bitarray import bitarray
from bitarray.util import count_and, count_or, count_xor
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]


def packed_size(n: int) -> int:
    """Bytes that `n` mask bits take."""
    return (n + 7) // 8


def pack(mask_N: NDArray[np.bool_]) -> Bytes:
    """bool (N,) -> uint8 (P,), LSB first, zero padded."""
    return np.packbits(mask_N, bitorder="little")


def unpack(bits_P: Bytes, n: int) -> NDArray[np.bool_]:
    """uint8 (P,) -> bool (n,). Raises ValueError where P is not ceil(n / 8)."""
    if bits_P.size != packed_size(n):
        raise ValueError(f"{bits_P.size} bytes cannot hold exactly {n} bits")
    return np.unpackbits(bits_P, count=n, bitorder="little").view(np.bool_)


def padding_is_zero(bits_P: Bytes, n: int) -> bool:
    """True where the bits past `n` in the last byte are all zero."""
    return n % 8 == 0 or not int(bits_P[-1]) >> (n % 8)


def _view(bits_P: Bytes) -> bitarray:
    return bitarray(buffer=memoryview(np.ascontiguousarray(bits_P)), endian="little")


def count(bits_P: Bytes) -> int:
    """Ones in a packed mask."""
    return int(_view(bits_P).count())


def overlap(a_P: Bytes, b_P: Bytes) -> dict[str, int]:
    """Counts of `a & b`, `a | b` and `a ^ b` of two packed masks of one size."""
    a, b = _view(a_P), _view(b_P)
    return {"and": count_and(a, b), "or": count_or(a, b), "xor": count_xor(a, b)}


def combine(operation: str, masks: Iterable[Bytes]) -> Bytes:
    """Fold packed masks of one size with "and", "or" or "xor"; uint8 (P,)."""
    first, *rest = (_view(m) for m in masks)
    result: Any = bitarray(first)
    for mask in rest:
        if operation == "and":
            result &= mask
        elif operation == "or":
            result |= mask
        elif operation == "xor":
            result ^= mask
        else:
            raise ValueError(f"unknown operation {operation!r}; use and, or, xor")
    return np.frombuffer(result.tobytes(), np.uint8)
