"""Packs fields of 0 to 32 bits one after the other, each lowest bit first, as `bits` packs masks.

Legend: N = elements, each of which has a field; U = uint16 or uint32.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskstore.kernels.jit import jit

Bytes = NDArray[np.uint8]
U = NDArray[Any]


def write(fields_N: U, widths_N: Bytes, total: int) -> Bytes:
    """Fields of `total` bits together -> ceil(total / 8) bytes, zero padded."""
    words = np.zeros(total // 32 + 2, np.uint32)
    _write(fields_N, widths_N, words)
    return words.astype("<u4").view(np.uint8)[: (total + 7) // 8]


def read(packed: Bytes, widths_N: Bytes, fields_N: U) -> None:
    """Inverse of `write`; the widths MUST add up to no more bits than there are."""
    words = np.zeros(packed.size // 4 + 3, "<u4")
    words.view(np.uint8)[: packed.size] = packed
    _read(words.astype(np.uint32, copy=False), widths_N, fields_N)


@jit
def _write(fields_N: U, widths_N: Bytes, words: NDArray[np.uint32]) -> None:
    held, fill, at = np.uint64(0), np.uint64(0), np.uint64(0)
    for i in range(fields_N.size):
        width = np.uint64(widths_N[i])
        field = np.uint64(fields_N[i]) & ((np.uint64(1) << width) - np.uint64(1))
        held |= field << fill
        fill += width
        words[at] = np.uint32(held & np.uint64(0xFFFFFFFF))  # stays only where `at` moves on
        full = fill >> np.uint64(5)
        at += full
        held >>= full << np.uint64(5)
        fill &= np.uint64(31)
    words[at] = np.uint32(held & np.uint64(0xFFFFFFFF))


@jit
def _read(words: NDArray[np.uint32], widths_N: Bytes, fields_N: U) -> None:
    used = np.uint64(0)
    for i in range(widths_N.size):
        width = np.uint64(widths_N[i])
        at = used >> np.uint64(5)
        pair = np.uint64(words[at]) | (np.uint64(words[at + np.uint64(1)]) << np.uint64(32))
        field = (pair >> (used & np.uint64(31))) & ((np.uint64(1) << width) - np.uint64(1))
        fields_N[i] = fields_N.dtype.type(field)
        used += width
