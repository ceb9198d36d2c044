"""The codecs' inner loops, compiled by numba: one pass, no temporaries, no GIL.

Legend: N = elements of a chunk. `U` is the chunk's unsigned integer type (uint16 or uint32), and
marks arrays of it. Integer arithmetic wraps, so every loop is exact for every bit pattern, NaN
payloads included. What several loops do with one element is a function, which the compiler inlines.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskstore.kernels.jit import jit

U = NDArray[Any]
Bytes = NDArray[np.uint8]
Counts = NDArray[np.int64]


@jit
def order(x: Any, U: Any) -> Any:
    """A float's bits -> an integer that counts floats in order, in steps of one ulp, and back."""
    return U(x ^ U(U(U(0) - U(x >> U(np.iinfo(U).bits - 1))) >> U(1)))


@jit
def step(w0: Any, w: Any, U: Any) -> Any:
    """zigzag(order(w) - order(w0)): the sign in the lowest bit, so small steps are small."""
    d = U(order(w, U) - order(w0, U))
    return U(U(d << U(1)) ^ U(U(0) - U(d >> U(np.iinfo(U).bits - 1))))


@jit
def stepped(w0: Any, z: Any, U: Any) -> Any:
    """Inverse of `step`: w from w0."""
    d = U(U(z >> U(1)) ^ U(U(0) - U(z & U(1))))
    return order(U(order(w0, U) + d), U)


@jit
def stepped_back(w: Any, z: Any, U: Any) -> Any:
    """Inverse of `stepped`: w0 from w."""
    d = U(U(z >> U(1)) ^ U(U(0) - U(z & U(1))))
    return order(U(order(w, U) - d), U)


@jit
def put16(z: Any, i: int, low_N: Bytes, high_N: Bytes) -> None:
    low_N[i] = np.uint8(z & np.uint16(0xFF))
    high_N[i] = np.uint8(z >> np.uint16(8))


@jit
def get16(i: int, low_N: Bytes, high_N: Bytes) -> Any:
    return np.uint16((np.uint16(high_N[i]) << np.uint16(8)) | np.uint16(low_N[i]))


@jit
def put32(z: Any, i: int, p0: Bytes, p1: Bytes, p2: Bytes, p3: Bytes) -> None:
    p0[i] = np.uint8(z & np.uint32(0xFF))
    p1[i] = np.uint8((z >> np.uint32(8)) & np.uint32(0xFF))
    p2[i] = np.uint8((z >> np.uint32(16)) & np.uint32(0xFF))
    p3[i] = np.uint8(z >> np.uint32(24))


@jit
def get32(i: int, p0: Bytes, p1: Bytes, p2: Bytes, p3: Bytes) -> Any:
    low = np.uint32(p0[i]) | (np.uint32(p1[i]) << np.uint32(8))
    return np.uint32(
        low | (np.uint32(p2[i]) << np.uint32(16)) | (np.uint32(p3[i]) << np.uint32(24))
    )


@jit
def split16(x_N: U, low_N: Bytes, high_N: Bytes) -> None:
    """Rotate left by one, so that the sign leaves the exponent's byte, and split into bytes."""
    for i in range(x_N.size):
        r = np.uint16((x_N[i] << np.uint16(1)) | (x_N[i] >> np.uint16(15)))
        put16(r, i, low_N, high_N)


@jit
def join16(low_N: Bytes, high_N: Bytes, x_N: U) -> None:
    """Inverse of split16."""
    for i in range(x_N.size):
        r = get16(i, low_N, high_N)
        x_N[i] = np.uint16((r >> np.uint16(1)) | (r << np.uint16(15)))


@jit
def split32(x_N: U, p0: Bytes, p1: Bytes, p2: Bytes, p3: Bytes) -> None:
    """split16 for 32-bit elements, four planes, lowest byte first."""
    for i in range(x_N.size):
        r = np.uint32((x_N[i] << np.uint32(1)) | (x_N[i] >> np.uint32(31)))
        put32(r, i, p0, p1, p2, p3)


@jit
def join32(p0: Bytes, p1: Bytes, p2: Bytes, p3: Bytes, x_N: U) -> None:
    """Inverse of split32."""
    for i in range(x_N.size):
        r = get32(i, p0, p1, p2, p3)
        x_N[i] = np.uint32((r >> np.uint32(1)) | (r << np.uint32(31)))


@jit
def ulp_split16(w0_N: U, w1_N: U, low_N: Bytes, high_N: Bytes) -> None:
    """Steps from w0 to w1 in two byte planes."""
    for i in range(w0_N.size):
        put16(step(w0_N[i], w1_N[i], np.uint16), i, low_N, high_N)


@jit
def ulp_join16(w0_N: U, low_N: Bytes, high_N: Bytes, w1_N: U) -> None:
    """Inverse of ulp_split16, given w0."""
    for i in range(w0_N.size):
        w1_N[i] = stepped(w0_N[i], get16(i, low_N, high_N), np.uint16)


@jit
def ulp_split32(w0_N: U, w1_N: U, p0: Bytes, p1: Bytes, p2: Bytes, p3: Bytes) -> None:
    """ulp_split16 for 32-bit elements."""
    for i in range(w0_N.size):
        put32(step(w0_N[i], w1_N[i], np.uint32), i, p0, p1, p2, p3)


@jit
def ulp_join32(w0_N: U, p0: Bytes, p1: Bytes, p2: Bytes, p3: Bytes, w1_N: U) -> None:
    """Inverse of ulp_split32, given w0."""
    for i in range(w0_N.size):
        w1_N[i] = stepped(w0_N[i], get32(i, p0, p1, p2, p3), np.uint32)


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


@jit
def size_of(w0: Any, shift: int, U: Any) -> Any:
    """A weight's size s, its exponent or so: its bits without the sign, shifted."""
    return np.uint32(U(w0 & U(np.iinfo(U).max >> 1))) >> np.uint32(shift)


@jit
def count_sizes(w0_N: U, shift: int, by_size: Counts) -> None:
    """How often each s occurs, (4, 256): counts in turn, so that none waits for the one before."""
    U = w0_N.dtype.type
    for i in range(w0_N.size):
        by_size[i & 3, size_of(w0_N[i], shift, U)] += 1


@jit
def sort(
    w0_N: U, shift: int, bytes_N: Bytes, classes: Bytes, place: NDArray[np.uint64], sorted_N: Bytes
) -> None:
    """Bytes to the places of their classes, which s decides; `place` is used up."""
    U = w0_N.dtype.type
    for i in range(w0_N.size):
        sorted_N[_next(classes[size_of(w0_N[i], shift, U)], place)] = bytes_N[i]


@jit
def unsort(
    w0_N: U, shift: int, sorted_N: Bytes, classes: Bytes, place: NDArray[np.uint64], bytes_N: Bytes
) -> None:
    """Inverse of `sort`; `place` is used up."""
    U = w0_N.dtype.type
    for i in range(w0_N.size):
        bytes_N[i] = sorted_N[_next(classes[size_of(w0_N[i], shift, U)], place)]


@jit
def arrange(
    w0_N: U,
    shift: int,
    classes: Bytes,
    place: NDArray[np.uint64],
    at_N: NDArray[np.uint32],
    sorted_N: U,
) -> None:
    """The elements in the order in which `sort` puts them, numbers and weights; uses up `place`."""
    U = w0_N.dtype.type
    for i in range(w0_N.size):
        p = _next(classes[size_of(w0_N[i], shift, U)], place)
        at_N[p] = np.uint32(i)
        sorted_N[p] = w0_N[i]


@jit
def gather(w_N: U, at_N: NDArray[np.uint32], sorted_N: U) -> None:
    """The elements in that order."""
    for j in range(w_N.size):
        sorted_N[j] = w_N[at_N[j]]


@jit
def scatter(sorted_N: U, at_N: NDArray[np.uint32], w_N: U) -> None:
    """Inverse of `gather`."""
    for j in range(w_N.size):
        w_N[at_N[j]] = sorted_N[j]


@jit
def _next(c: Any, place: NDArray[np.uint64]) -> Any:
    """The next free place of a class."""
    p = place[c]
    place[c] = p + np.uint64(1)
    return p
