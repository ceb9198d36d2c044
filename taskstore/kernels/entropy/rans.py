"""An entropy coder for bytes of which each has a context: interleaved range ANS (rANS).

In a context each byte that occurs has a share of 2,048 (Duda, arXiv 1311.2540). LANES states of 32
bits take elements in turn, so that a processor works on several at once, and share one sequence of
16-bit words. To decode an element takes one look-up, one multiplication and, without a branch, one
word or none. How far words are read is bounded once per LANES elements.

Legend: N = elements, C = contexts, S = 256 bytes, E = 256 scales.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from taskstore.native import rans as loops

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
    words, states = np.empty(bytes_N.size + 1, np.uint16), np.empty(LANES, np.uint32)
    return states, words[loops.put(bytes_N, scales_N, contexts_E, shares_CS, states, words) :]


def count(bytes_N: Bytes, scales_N: Bytes, contexts_E: Bytes, contexts: int) -> Counts:
    """Count how often each byte occurs in each context, int64 (C, S)."""
    counts_CS = np.zeros((contexts, 256), np.int64)
    loops.count(bytes_N, scales_N, contexts_E, counts_CS)
    return counts_CS
