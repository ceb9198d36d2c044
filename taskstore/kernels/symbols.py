"""Packs small numbers, several to a byte: the symbols of `levels`.

A number z has the symbol z, or radix - 1 where that is too large for it; its excess over radix - 1
then stands among the escapes. PACKED symbols of one radix make a byte, first lowest; places after
the last number are 0.

Legend: K = symbols in a byte, E = escapes.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray

from taskstore.kernels.jit import jit

Bytes = NDArray[np.uint8]
F32 = NDArray[np.float32]
U16 = NDArray[np.uint16]
PACKED = {4: 4, 6: 3, 16: 2, 256: 1}  # radix -> symbols in a byte


def pack(z_N: U16, radix: int) -> tuple[Bytes, U16]:
    """Bytes of symbols, and the escapes' excess uint16 (E,)."""
    symbols = np.empty(-(-z_N.size // PACKED[radix]), np.uint8)
    excess = np.empty(z_N.size, np.uint16)
    found = _pack(z_N, radix, PACKED[radix], symbols, excess)
    return symbols, excess[:found]


def is_whole(symbols: Bytes, radix: int, n: int) -> bool:
    """Whether every byte holds symbols, and nothing stands after the last of `n` numbers."""
    if symbols.size and int(symbols.max()) >= radix ** PACKED[radix]:
        return False
    rest = n % PACKED[radix]
    return not rest or int(symbols[-1]) < radix**rest


def count_escapes(symbols: Bytes, radix: int) -> int:
    return int(_count(symbols, (digits(radix) == radix - 1).sum(1)))


def find_escapes(symbols: Bytes, radix: int, count: int) -> NDArray[np.uint32]:
    """Which numbers are escapes, in order, uint32 (E,)."""
    where_E = np.empty(count, np.uint32)
    if count:
        escapes_256K = digits(radix) == radix - 1
        _find(symbols, escapes_256K.any(1), escapes_256K, where_E)
    return where_E


def look_up(symbols: Bytes, table_256K: F32, n: int) -> F32:
    """What each of `n` symbols stands for in a table by bytes, float32 (n,)."""
    found_M = np.empty(symbols.size * table_256K.shape[1], np.float32)
    _look_up(symbols, table_256K, found_M)
    return found_M[:n]


@cache
def digits(radix: int) -> Bytes:
    """Symbols in each byte, uint8 (256, K)."""
    found = (np.arange(256)[:, None] // radix ** np.arange(PACKED[radix])) % radix
    return found.astype(np.uint8)


def choose_radix(z_N: U16) -> int:
    """The radix that takes the fewest bits, by entropy and what Huffman codes waste.

    Estimated on every fifth number, where there are many.
    """
    some = z_N if z_N.size <= 1 << 16 else z_N[::5]
    counts = np.bincount(np.minimum(some, 255), minlength=256)
    best, least = 256, math.inf
    for radix, packed in PACKED.items():
        escaped = counts[radix - 1 :].sum()
        p = np.append(counts[: radix - 1], escaped) / max(1, some.size)
        entropy = float(-(p[p > 0] * np.log2(p[p > 0])).sum())
        bits = max(some.size * (entropy + 0.03 / packed), some.size / packed) + 10 * escaped
        if bits < least:
            best, least = radix, bits
    return best


@jit
def _pack(z_N: U16, radix: int, packed: int, symbols: Bytes, escapes: U16) -> int:
    """Symbols into bytes; returns the number of escapes."""
    found, top, largest = np.uint64(0), np.uint16(radix - 1), np.uint16(0)
    for i in range(z_N.size):
        largest = max(largest, z_N[i])
    if largest >= top:
        for i in range(z_N.size):
            escapes[found] = z_N[i] - top  # kept only where `found` moves on
            found += np.uint64(z_N[i] >= top)
    whole = z_N.size // packed
    if packed == 2:
        for b in range(whole):
            low, high = min(z_N[2 * b], top), min(z_N[2 * b + 1], top)
            symbols[b] = np.uint8(low | (high << np.uint16(4)))
    else:
        for b in range(whole):
            value, place = np.uint16(0), np.uint16(1)
            for j in range(packed):
                value += place * min(z_N[b * packed + j], top)
                place *= np.uint16(radix)
            symbols[b] = np.uint8(value)
    for b in range(whole, symbols.size):
        value, place = np.uint16(0), np.uint16(1)
        for i in range(b * packed, z_N.size):
            value += place * min(z_N[i], top)
            place *= np.uint16(radix)
        symbols[b] = np.uint8(value)
    return int(found)


@jit
def _count(symbols: Bytes, escapes_256: NDArray[np.int64]) -> int:
    found = np.int64(0)
    for b in range(symbols.size):
        found += escapes_256[symbols[b]]
    return int(found)


@jit
def _find(
    symbols: Bytes,
    some_256: NDArray[np.bool_],
    escapes_256K: NDArray[np.bool_],
    where_E: NDArray[np.uint32],
) -> None:
    """Positions of the escapes; there are as many as `where_E` has room for."""
    k, packed = 0, escapes_256K.shape[1]
    for b in range(symbols.size):
        if not some_256[symbols[b]]:  # most bytes
            continue
        for j in range(packed):
            if escapes_256K[symbols[b], j]:
                where_E[k] = np.uint32(b * packed + j)
                k += 1


@jit
def _look_up(symbols: Bytes, table_256K: F32, v_M: F32) -> None:
    packed = table_256K.shape[1]
    for b in range(symbols.size):
        for j in range(packed):
            v_M[b * packed + j] = table_256K[symbols[b], j]
