"""BLAKE3 of a tensor whose pieces are hashed apart: each piece gives the root of its subtree.

BLAKE3 is a tree over chunks of 1024 bytes. Pieces that all have the same power of two of chunks
(the last may have fewer) are whole subtrees of it, so their values, joined, give the checksum of
the whole. Source: the BLAKE3 specification, sections 2.1 to 2.5.

Legend: C = chunks of a piece, W = eight words of a value.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from taskstore.native import subtrees as loops

U8 = NDArray[np.uint8]
U32 = NDArray[np.uint32]
CHUNK = 1024  # bytes of a leaf
PARENT, ROOT = 4, 8


def subtree(data_N: U8, first: int) -> bytes:
    """Return the value of a piece, 32 bytes: uint8 (N,), N > 0; `first`: chunks in front of it."""
    value_CW = np.empty((-(-data_N.size // CHUNK), 8), np.uint32)
    loops.leaves(np.ascontiguousarray(data_N), first, value_CW)
    return _top(value_CW, 0).astype("<u4").tobytes()


def joined(values: Sequence[bytes]) -> str:
    """Return the checksum, in hex, of two pieces or more, given their values in order."""
    assert len(values) > 1
    value_CW = np.frombuffer(b"".join(values), "<u4").reshape(-1, 8).astype(np.uint32)
    return _top(value_CW, ROOT).astype("<u4").tobytes().hex()


def _top(value_CW: U32, flags: int) -> U32:
    """Join neighbours until one value is left; an odd one goes up a level as it is."""
    while len(value_CW) > 1:
        last = ROOT if flags and len(value_CW) == 2 else 0
        joined_CW = np.empty(((len(value_CW) + 1) // 2, 8), np.uint32)
        joined_CW[-1] = value_CW[-1]
        loops.parents(value_CW, PARENT | last, joined_CW)
        value_CW = joined_CW
    top_W: U32 = value_CW[0]
    return top_W
