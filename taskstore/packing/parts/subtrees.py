"""BLAKE3 of a tensor whose pieces are hashed apart: each piece gives the root of its subtree.

BLAKE3 is a tree over chunks of 1024 bytes. Pieces that all have the same power of two of chunks
(the last may have fewer) are whole subtrees of it, so their values, joined, give the checksum of
the whole. Source: the BLAKE3 specification, sections 2.1 to 2.5.

Legend: C = chunks of a piece, L = chunks that are hashed side by side, W = eight words of a value.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskstore.kernels.jit import jit

U8 = NDArray[np.uint8]
U32 = NDArray[np.uint32]
CHUNK = 1024  # bytes of a leaf
BLOCK = 64  # bytes that are mixed in at a time
LANES = 16
START, END, PARENT, ROOT = 1, 2, 4, 8
IV = np.array(
    [0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A,
     0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19],
    np.uint32,
)  # fmt: skip
_ORDER = [2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8]
_MIXED = np.array(  # columns, then diagonals
    [[0, 4, 8, 12], [1, 5, 9, 13], [2, 6, 10, 14], [3, 7, 11, 15],
     [0, 5, 10, 15], [1, 6, 11, 12], [2, 7, 8, 13], [3, 4, 9, 14]]
)  # fmt: skip


def _schedule() -> NDArray[np.intp]:
    """Return which word of the message each half of a round takes, (7, 16)."""
    rounds = [list(range(16))]
    while len(rounds) < 7:
        rounds.append([rounds[-1][i] for i in _ORDER])
    return np.array(rounds)


_WORDS = _schedule()


def subtree(data_N: U8, first: int) -> bytes:
    """Return the value of a piece, 32 bytes: uint8 (N,), N > 0; `first`: chunks in front of it."""
    whole = data_N.size // CHUNK
    value_CW = np.empty((-(-data_N.size // CHUNK), 8), np.uint32)
    done = whole // LANES * LANES
    words = np.ascontiguousarray(data_N[: done * CHUNK]).view("<u4")
    _leaves(words, first, value_CW)
    for c in range(done, len(value_CW)):
        value_CW[c] = _leaf(data_N[c * CHUNK : (c + 1) * CHUNK], first + c)
    return _top(value_CW, 0).astype("<u4").tobytes()


def joined(values: Sequence[bytes]) -> str:
    """Return the checksum, in hex, of two pieces or more, given their values in order."""
    assert len(values) > 1
    value_CW = np.frombuffer(b"".join(values), "<u4").reshape(-1, 8)
    return _top(value_CW, ROOT).astype("<u4").tobytes().hex()


def _top(value_CW: U32, flags: int) -> U32:
    """Join neighbours until one value is left; an odd one goes up a level as it is."""
    while len(value_CW) > 1:
        last = ROOT if flags and len(value_CW) == 2 else 0
        value_CW = _parents(value_CW, PARENT | last)
    top_W: U32 = value_CW[0]
    return top_W


def _leaf(data_N: U8, counter: int) -> U32:
    """Return the value of one chunk of at most CHUNK bytes."""
    padded = np.zeros(max(BLOCK, -(-data_N.size // BLOCK) * BLOCK), np.uint8)
    padded[: data_N.size] = data_N
    blocks, value_W = padded.view("<u4").reshape(-1, 16), IV
    for b, words in enumerate(blocks):
        last = b == len(blocks) - 1
        flags = (START if b == 0 else 0) | (END if last else 0)
        size = data_N.size - b * BLOCK if last else BLOCK
        value_W = _compressed(value_W, words, counter, size, flags)
    return value_W


def _compressed(value_W: U32, words: U32, counter: int, size: int, flags: int) -> U32:
    state = np.empty((16, LANES), np.uint32)
    message, out = np.empty((16, LANES), np.uint32), np.empty((8, LANES), np.uint32)
    message[:], out[:] = np.asarray(words)[:, None], np.asarray(value_W)[:, None]
    counter_L = np.full(LANES, counter, np.uint64)
    _compress(out, message, counter_L, size, flags, state)
    return out[:, 0].copy()


@jit
def _compress(value: Any, message: Any, counter_L: Any, size: int, flags: int, state: Any) -> None:
    """Mix a block of each lane into its value: uint32 (8, L) and (16, L)."""
    for i in range(8):
        for lane in range(LANES):
            state[i, lane] = value[i, lane]
    for i in range(4):
        for lane in range(LANES):
            state[8 + i, lane] = IV[i]
    for lane in range(LANES):
        state[12, lane] = np.uint32(counter_L[lane] & np.uint64(0xFFFFFFFF))
        state[13, lane] = np.uint32(counter_L[lane] >> np.uint64(32))
        state[14, lane] = np.uint32(size)
        state[15, lane] = np.uint32(flags)
    for r in range(7):
        for g in range(8):
            ia, ib, ic, id = _MIXED[g, 0], _MIXED[g, 1], _MIXED[g, 2], _MIXED[g, 3]
            x, y = _WORDS[r, 2 * g], _WORDS[r, 2 * g + 1]
            for lane in range(LANES):
                a, b, c, d = state[ia, lane], state[ib, lane], state[ic, lane], state[id, lane]
                a = np.uint32(a + b + message[x, lane])
                d = np.uint32(d ^ a)
                d = np.uint32((d >> np.uint32(16)) | (d << np.uint32(16)))
                c = np.uint32(c + d)
                b = np.uint32(b ^ c)
                b = np.uint32((b >> np.uint32(12)) | (b << np.uint32(20)))
                a = np.uint32(a + b + message[y, lane])
                d = np.uint32(d ^ a)
                d = np.uint32((d >> np.uint32(8)) | (d << np.uint32(24)))
                c = np.uint32(c + d)
                b = np.uint32(b ^ c)
                b = np.uint32((b >> np.uint32(7)) | (b << np.uint32(25)))
                state[ia, lane], state[ib, lane], state[ic, lane], state[id, lane] = a, b, c, d
    for i in range(8):
        for lane in range(LANES):
            value[i, lane] = state[i, lane] ^ state[8 + i, lane]


@jit
def _leaves(words: U32, first: int, value_CW: U32) -> None:
    """Write the values of whole chunks, L at a time: uint32 words in order -> (C, 8)."""
    state, message = np.empty((16, LANES), np.uint32), np.empty((16, LANES), np.uint32)
    value, counter_L = np.empty((8, LANES), np.uint32), np.empty(LANES, np.uint64)
    for begin in range(0, words.size // 256, LANES):
        for lane in range(LANES):
            counter_L[lane] = np.uint64(first + begin + lane)
            for i in range(8):
                value[i, lane] = IV[i]
        for b in range(16):
            for lane in range(LANES):
                at = (begin + lane) * 256 + b * 16
                for i in range(16):
                    message[i, lane] = words[at + i]
            flags = (START if b == 0 else 0) | (END if b == 15 else 0)
            _compress(value, message, counter_L, BLOCK, flags, state)
        for lane in range(LANES):
            for i in range(8):
                value_CW[begin + lane, i] = value[i, lane]


@jit
def _parents(value_CW: U32, flags: int) -> U32:
    """Join each pair of values, L at a time: uint32 (C, 8) -> ((C + 1) // 2, 8)."""
    pairs = len(value_CW) // 2
    joined_CW = np.empty(((len(value_CW) + 1) // 2, 8), np.uint32)
    joined_CW[-1] = value_CW[-1]
    state, message = np.empty((16, LANES), np.uint32), np.empty((16, LANES), np.uint32)
    value, counter_L = np.empty((8, LANES), np.uint32), np.zeros(LANES, np.uint64)
    for begin in range(0, pairs, LANES):
        for lane in range(LANES):
            pair = min(begin + lane, pairs - 1)
            for i in range(8):
                value[i, lane] = IV[i]
                message[i, lane] = value_CW[2 * pair, i]
                message[8 + i, lane] = value_CW[2 * pair + 1, i]
        _compress(value, message, counter_L, BLOCK, flags, state)
        for lane in range(min(LANES, pairs - begin)):
            for i in range(8):
                joined_CW[begin + lane, i] = value[i, lane]
    return joined_CW
