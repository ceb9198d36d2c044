"""The codecs' inner loops, compiled by numba: one pass, no temporaries, no GIL.

Legend: N = elements of a chunk. `U` names the chunk's unsigned integer view (uint16 or uint32).
Integer arithmetic wraps, so every loop is exact for every bit pattern, NaN payloads included.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskstore.kernels.jit import jit

U = NDArray[Any]
Bytes = NDArray[np.uint8]


@jit
def split16(x_N: U, low_N: Bytes, high_N: Bytes) -> None:
    """Rotate left by one, so that the sign leaves the exponent's byte, and split into bytes."""
    for i in range(x_N.size):
        r = np.uint16((x_N[i] << np.uint16(1)) | (x_N[i] >> np.uint16(15)))
        low_N[i] = np.uint8(r & np.uint16(0xFF))
        high_N[i] = np.uint8(r >> np.uint16(8))


@jit
def join16(low_N: Bytes, high_N: Bytes, x_N: U) -> None:
    """Inverse of split16."""
    for i in range(x_N.size):
        r = np.uint16((np.uint16(high_N[i]) << np.uint16(8)) | np.uint16(low_N[i]))
        x_N[i] = np.uint16((r >> np.uint16(1)) | (r << np.uint16(15)))


@jit
def split32(x_N: U, p0: Bytes, p1: Bytes, p2: Bytes, p3: Bytes) -> None:
    """split16 for 32-bit elements, four planes, lowest byte first."""
    for i in range(x_N.size):
        r = np.uint32((x_N[i] << np.uint32(1)) | (x_N[i] >> np.uint32(31)))
        p0[i] = np.uint8(r & np.uint32(0xFF))
        p1[i] = np.uint8((r >> np.uint32(8)) & np.uint32(0xFF))
        p2[i] = np.uint8((r >> np.uint32(16)) & np.uint32(0xFF))
        p3[i] = np.uint8(r >> np.uint32(24))


@jit
def join32(p0: Bytes, p1: Bytes, p2: Bytes, p3: Bytes, x_N: U) -> None:
    """Inverse of split32."""
    for i in range(x_N.size):
        r = np.uint32(
            np.uint32(p0[i])
            | (np.uint32(p1[i]) << np.uint32(8))
            | (np.uint32(p2[i]) << np.uint32(16))
            | (np.uint32(p3[i]) << np.uint32(24))
        )
        x_N[i] = np.uint32((r >> np.uint32(1)) | (r << np.uint32(31)))


@jit
def ulp_split16(w0_N: U, w1_N: U, low_N: Bytes, high_N: Bytes) -> None:
    """zigzag(order(w1) - order(w0)) in two byte planes.

    order() maps a float's bits to a signed integer that counts floats in order (steps of one
    ulp); zigzag() folds the sign into the lowest bit, so small steps have empty high bytes.
    """
    for i in range(w0_N.size):
        a = np.int16(w0_N[i])
        b = np.int16(w1_N[i])
        a = np.int16(a ^ np.int16((a >> np.int16(15)) & np.int16(0x7FFF)))
        b = np.int16(b ^ np.int16((b >> np.int16(15)) & np.int16(0x7FFF)))
        d = np.int16(b - a)
        z = np.uint16(np.int16(np.int16(d << np.int16(1)) ^ np.int16(d >> np.int16(15))))
        low_N[i] = np.uint8(z & np.uint16(0xFF))
        high_N[i] = np.uint8(z >> np.uint16(8))


@jit
def ulp_join16(w0_N: U, low_N: Bytes, high_N: Bytes, w1_N: U) -> None:
    """Inverse of ulp_split16, given w0."""
    for i in range(w0_N.size):
        z = np.int16(np.uint16((np.uint16(high_N[i]) << np.uint16(8)) | np.uint16(low_N[i])))
        half = np.int16((z >> np.int16(1)) & np.int16(0x7FFF))
        d = np.int16(half ^ np.int16(-np.int16(z & np.int16(1))))
        a = np.int16(w0_N[i])
        a = np.int16(a ^ np.int16((a >> np.int16(15)) & np.int16(0x7FFF)))
        b = np.int16(a + d)
        w1_N[i] = np.uint16(np.int16(b ^ np.int16((b >> np.int16(15)) & np.int16(0x7FFF))))


@jit
def ulp_split32(w0_N: U, w1_N: U, p0: Bytes, p1: Bytes, p2: Bytes, p3: Bytes) -> None:
    """ulp_split16 for 32-bit elements."""
    for i in range(w0_N.size):
        a = np.int32(w0_N[i])
        b = np.int32(w1_N[i])
        a = np.int32(a ^ np.int32((a >> np.int32(31)) & np.int32(0x7FFFFFFF)))
        b = np.int32(b ^ np.int32((b >> np.int32(31)) & np.int32(0x7FFFFFFF)))
        d = np.int32(b - a)
        z = np.uint32(np.int32(np.int32(d << np.int32(1)) ^ np.int32(d >> np.int32(31))))
        p0[i] = np.uint8(z & np.uint32(0xFF))
        p1[i] = np.uint8((z >> np.uint32(8)) & np.uint32(0xFF))
        p2[i] = np.uint8((z >> np.uint32(16)) & np.uint32(0xFF))
        p3[i] = np.uint8(z >> np.uint32(24))


@jit
def ulp_join32(w0_N: U, p0: Bytes, p1: Bytes, p2: Bytes, p3: Bytes, w1_N: U) -> None:
    """Inverse of ulp_split32, given w0."""
    for i in range(w0_N.size):
        z = np.int32(
            np.uint32(p0[i])
            | (np.uint32(p1[i]) << np.uint32(8))
            | (np.uint32(p2[i]) << np.uint32(16))
            | (np.uint32(p3[i]) << np.uint32(24))
        )
        half = np.int32((z >> np.int32(1)) & np.int32(0x7FFFFFFF))
        d = np.int32(half ^ np.int32(-np.int32(z & np.int32(1))))
        a = np.int32(w0_N[i])
        a = np.int32(a ^ np.int32((a >> np.int32(31)) & np.int32(0x7FFFFFFF)))
        b = np.int32(a + d)
        w1_N[i] = np.uint32(np.int32(b ^ np.int32((b >> np.int32(31)) & np.int32(0x7FFFFFFF))))


@jit
def add_bf16(w0_N: U, vector_N: U, w1_N: U) -> None:
    """fp32(w0 + widened bf16), w0 where that is not finite; everything as bit patterns."""
    for i in range(w0_N.size):
        step = np.uint32(np.uint32(vector_N[i]) << np.uint32(16)).view(np.float32)
        value = np.float32(np.uint32(w0_N[i]).view(np.float32) + step)
        bits = np.float32(value).view(np.uint32)
        finite = (bits & np.uint32(0x7F800000)) != np.uint32(0x7F800000)
        w1_N[i] = bits if finite else w0_N[i]


Loop = Callable[..., None]
SPLIT: Mapping[int, Loop] = {2: split16, 4: split32}  # by bytes per element
JOIN: Mapping[int, Loop] = {2: join16, 4: join32}
ULP_SPLIT: Mapping[int, Loop] = {2: ulp_split16, 4: ulp_split32}
ULP_JOIN: Mapping[int, Loop] = {2: ulp_join16, 4: ulp_join32}
