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

from taskstore.native import symbols as loops

Bytes = NDArray[np.uint8]
F32 = NDArray[np.float32]
U16 = NDArray[np.uint16]
PACKED = {4: 4, 6: 3, 16: 2, 256: 1}  # radix -> symbols in a byte


def pack(z_N: U16, radix: int) -> tuple[Bytes, U16]:
    """Bytes of symbols, and the escapes' excess uint16 (E,)."""
    symbols = np.empty(-(-z_N.size // PACKED[radix]), np.uint8)
    excess = np.empty(z_N.size, np.uint16)
    found = loops.pack(z_N, radix, PACKED[radix], symbols, excess)
    return symbols, excess[:found]


def is_whole(symbols: Bytes, radix: int, n: int) -> bool:
    """Whether every byte holds symbols, and nothing stands after the last of `n` numbers."""
    if symbols.size and int(symbols.max()) >= radix ** PACKED[radix]:
        return False
    rest = n % PACKED[radix]
    return not rest or int(symbols[-1]) < radix**rest


def count_escapes(symbols: Bytes, radix: int) -> int:
    return loops.count(symbols, (digits(radix) == radix - 1).sum(1))


def find_escapes(symbols: Bytes, radix: int, count: int) -> NDArray[np.uint32]:
    """Which numbers are escapes, in order, uint32 (E,)."""
    where_E = np.empty(count, np.uint32)
    if count:
        loops.find(symbols, digits(radix) == radix - 1, where_E)
    return where_E


def look_up(symbols: Bytes, table_256K: F32, n: int) -> F32:
    """What each of `n` symbols stands for in a table by bytes, float32 (n,)."""
    found_M = np.empty(symbols.size * table_256K.shape[1], np.float32)
    loops.look_up(symbols, table_256K, found_M)
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
