"""An entropy coder for bytes of which each has a context: interleaved range ANS (rANS).

In a context each byte that occurs has a share of 2,048 (Duda, arXiv 1311.2540). LANES states of 32
bits take elements in turn, so that a processor works on several at once, and share one sequence of
16-bit words. To decode an element takes one look-up, one multiplication and, without a branch, one
word or none. How far words are read is bounded once per LANES elements.

Legend: N = elements, C = contexts, S = 256 bytes, E = 256 scales.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskstore.kernels.jit import jit

Bytes = NDArray[np.uint8]
U16 = NDArray[np.uint16]
U32 = NDArray[np.uint32]
Counts = NDArray[np.int64]
LANES = 8
START = 1 << 16  # a state before the first element is put in and after the last is taken out
BITS = 11
WHOLE = 1 << BITS  # the sum of a context's shares


def encode(bytes_N: Bytes, scales_N: Bytes, contexts_E: Bytes, shares_CS: U16) -> tuple[U32, U16]:
    """Code bytes, each of which has a share in its context; returns states and words.

    An element's context is that of its scale, which is any byte.
    """
    begins_CS = (shares_CS.cumsum(1) - shares_CS).astype(np.uint16)
    words, states = np.empty(bytes_N.size + 1, np.uint16), np.full(LANES, START, np.uint32)
    return states, words[_put(bytes_N, scales_N, contexts_E, shares_CS, begins_CS, states, words) :]


def decode(
    states: U32, words: U16, scales_N: Bytes, contexts_E: Bytes, shares_CS: U16
) -> Bytes | None:
    """Inverse of `encode`; None where it does not end empty after the last word.

    Each context's shares MUST add up to 2,048.
    """
    table = np.empty(shares_CS.shape[0] * WHOLE, np.uint32)
    _spread(shares_CS, table)
    room = np.zeros(words.size + 1 + LANES, np.uint16)  # to run into
    room[: words.size] = words
    states, bytes_N = states.astype(np.uint32), np.empty(scales_N.size, np.uint8)
    rows_E = contexts_E.astype(np.uint32) << np.uint32(BITS)
    read = _take(states, room, scales_N, rows_E, table, bytes_N)
    return bytes_N if read == words.size and (states == START).all() else None


@jit
def count(bytes_N: Bytes, scales_N: Bytes, contexts_E: Bytes, counts_CS: Counts) -> None:
    """Count how often each byte occurs in each context."""
    for i in range(bytes_N.size):
        counts_CS[contexts_E[scales_N[i]], bytes_N[i]] += 1


@jit
def _put(
    bytes_N: Bytes,
    scales_N: Bytes,
    contexts_E: Bytes,
    shares_CS: U16,
    begins_CS: U16,
    states: U32,
    words: U16,
) -> int:
    """Code from the last element to the first, words from the end of `words` on downwards."""
    at = np.uint64(words.size - 1)  # one element may have no word, so there is room for a spare
    for i in range(bytes_N.size - 1, -1, -1):
        c, s = contexts_E[scales_N[i]], bytes_N[i]
        share, x = np.uint32(shares_CS[c, s]), states[i % LANES]
        words[at] = np.uint16(x & np.uint32(0xFFFF))  # kept only where `at` moves on
        many = np.uint32(np.uint64(x) >= np.uint64(share) << np.uint64(32 - BITS))
        at -= np.uint64(many)
        x = np.uint32(x >> np.uint32(many << np.uint32(4)))
        whole = np.uint32(x // share)
        left = np.uint32(x - np.uint32(whole * share))
        states[i % LANES] = np.uint32((whole << np.uint32(BITS)) + left + begins_CS[c, s])
    return int(at + np.uint64(1))


@jit
def _spread(shares_CS: U16, table: U32) -> None:
    """What a state's low bits stand for: byte, share, and place in the share."""
    at = 0
    for c in range(shares_CS.shape[0]):
        for s in range(shares_CS.shape[1]):
            share = int(shares_CS[c, s])
            for place in range(share):
                table[at + place] = np.uint32(s | (share << 8) | (place << 20))
            at += share


@jit
def _take(states: U32, words: U16, scales_N: Bytes, rows_E: U32, table: U32, bytes_N: Bytes) -> int:
    """Take bytes out of the states; returns the words read, or one more than there are."""
    at, stop = np.uint64(0), np.uint64(words.size - LANES)
    n = np.uint64(scales_N.size)
    full = np.uint64(n - n % np.uint64(LANES))
    for first in range(np.uint64(0), full, np.uint64(LANES)):
        for lane in range(LANES):
            i = first + np.uint64(lane)
            at = _one(i, lane, at, states, words, scales_N, rows_E, table, bytes_N)
        at = min(at, stop)
    for lane in range(n - full):
        i = full + np.uint64(lane)
        at = _one(i, lane, at, states, words, scales_N, rows_E, table, bytes_N)
    return int(min(at, stop))


@jit
def _one(
    i: Any,
    lane: int,
    at: Any,
    states: U32,
    words: U16,
    scales_N: Bytes,
    rows_E: U32,
    table: U32,
    bytes_N: Bytes,
) -> Any:
    """Take element `i`; returns where the next word is."""
    x = states[lane]
    entry = table[rows_E[scales_N[i]] | np.uint32(x & np.uint32(WHOLE - 1))]
    share = np.uint32(np.uint32(entry >> np.uint32(8)) & np.uint32(0xFFF))
    x = np.uint32(share * np.uint32(x >> np.uint32(BITS)) + np.uint32(entry >> np.uint32(20)))
    few = np.uint32(x < np.uint32(START))
    filled = np.uint32(np.uint32(x << np.uint32(16)) | np.uint32(words[at]))
    states[lane] = filled if few else x
    bytes_N[i] = np.uint8(entry & np.uint32(0xFF))
    return at + np.uint64(few)
