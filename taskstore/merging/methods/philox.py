"""Random numbers by position, whatever the order in which they are drawn: Philox 4x32-10.

It is a counter-based generator (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC
2011): ten rounds turn a counter of 128 bits and a key of 64 into four words. 128 bits of BLAKE3
over a vector's names fill the key and half of the counter; the other half counts. So every element
of every vector has its own number, for any size of block and any number of workers.

Element i takes word (i // 1024) % 4 of counter 1024 (i // 4096) + i % 1024. The same word of 1,024
counters lies together, which a compiler can vectorise.
"""

from __future__ import annotations

import struct

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from taskstore.merging.methods.api import F32
from taskstore.native import philox as loops

Words = NDArray[np.uint32]


def stream(seed: int, *names: str) -> Words:
    """The start of one vector's numbers, uint32 (4,): two words of key, two of counter."""
    state = blake3(struct.pack("<q", seed))
    for name in names:
        raw = name.encode("utf-8", "surrogatepass")
        state.update(struct.pack("<q", len(raw)) + raw)  # the length: "ab" + "c" is not "a" + "bc"
    return np.frombuffer(state.digest(16), "<u4").astype(np.uint32)


def generate(stream_4: Words, group: int, out: Words) -> None:
    """Numbers of elements [4096 group, 4096 group + 4096)."""
    loops.group(stream_4, group, out)


def drop(
    tau_N: F32, stream_4: Words, start: int, below: np.uint32, kept: np.float32, out_N: F32
) -> None:
    """Write tau / kept where an element's number is `below` or more, else 0."""
    loops.drop(tau_N, stream_4, start, int(below), float(kept), out_N)


def words(stream_4: Words, start: int, out_N: Words) -> None:
    """The numbers of elements [start, start + N), uint32 (N,)."""
    loops.words(stream_4, start, out_N)
