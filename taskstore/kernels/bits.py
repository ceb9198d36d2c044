"""Packs boolean masks, and counts in their packed form.

Legend: N = elements, P = ceil(N / 8) bytes. Bit i is bit i % 8 of byte i // 8, counted from the
least significant (LSB first, numpy's `bitorder="little"`); the unused high bits of the last byte
are zero. SPEC.md section 4 works one mask by hand.

Masks are counted as packed bytes, through bitarray, never as unpacked booleans.

`usage` counts the masks that a position is in, for a whole word of positions at a time. The masks
are the rows of an addition: planes[i] holds bit i of every position's sum. Three rows of one weight
become a sum and a carry, a ^ b ^ c and ab | c(a ^ b), until one row of each weight is left.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from bitarray import bitarray
from bitarray.util import count_and
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Counts = NDArray[np.int64]
BLOCK = 32 << 10  # bytes of a mask that are worked on at a time: some rows fit into the cache


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


def intersections(masks: Sequence[Bytes]) -> Counts:
    """Count the positions that two masks share, (S, S); the diagonal has each mask's ones."""
    views = [_view(mask) for mask in masks]
    both_SS = np.zeros((len(views), len(views)), np.int64)
    for i, one in enumerate(views):
        both_SS[i, i] = one.count()
        for j in range(i):
            both_SS[i, j] = both_SS[j, i] = count_and(one, views[j])
    return both_SS


def usage(masks: Sequence[Bytes], within_P: Bytes) -> Counts:
    """Count the positions of `within` that are in exactly k of S masks, for k = 0 .. S."""
    within, counts = _view(within_P), np.zeros(len(masks) + 1, np.int64)
    _share_out(within, within.count(), _sums([_view(mask) for mask in masks]), 0, counts)
    return counts


def _sums(rows: list[bitarray]) -> list[bitarray]:
    """The vertical sums of the rows: [i] is bit i of every position's."""
    planes, column = [], rows
    while column:
        carries = []
        while len(column) > 2:
            a, b, c = column.pop(), column.pop(), column.pop()
            different = a ^ b
            column.append(different ^ c)
            carries.append(a & b | different & c)
        if len(column) == 2:
            carries.append(column[0] & column[1])
            column = [column[0] ^ column[1]]
        planes += column
        column = carries
    return planes


def _share_out(within: bitarray, size: int, planes: list[bitarray], k: int, counts: Counts) -> None:
    """Add the `size` positions of `within` to `counts` by their sums, one bit at a time.

    `k` is what the higher planes add up to.
    """
    if not size:
        return
    if not planes:
        counts[k] += size
        return
    *lower, plane = planes
    more = k + (1 << len(lower))
    if more >= len(counts):  # no sum is that large
        _share_out(within, size, lower, k, counts)
    elif not lower:
        ones = count_and(within, plane)
        counts[k] += size - ones
        counts[more] += ones
    else:
        inside = within & plane
        ones = inside.count()
        _share_out(inside, ones, lower, more, counts)
        _share_out(within ^ inside, size - ones, lower, k, counts)
