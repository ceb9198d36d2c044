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

from taskstore.kernels.jit import jit
from taskstore.merging.methods.api import F32

GROUP = 4096  # elements that 1,024 counters serve
Words = NDArray[np.uint32]

_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = np.uint32(0x9E3779B9), np.uint32(0xBB67AE85)
_LOW, _32 = np.uint64(0xFFFFFFFF), np.uint64(32)


def stream(seed: int, *names: str) -> Words:
    """The start of one vector's numbers, uint32 (4,): two words of key, two of counter."""
    state = blake3(struct.pack("<q", seed))
    for name in names:
        raw = name.encode("utf-8", "surrogatepass")
        state.update(struct.pack("<q", len(raw)) + raw)  # the length: "ab" + "c" is not "a" + "bc"
    return np.frombuffer(state.digest(16), "<u4").astype(np.uint32)


@jit
def generate(stream_4: Words, group: int, out: Words) -> None:
    """Numbers of elements [4096 group, 4096 group + 4096)."""
    quarter = GROUP // 4
    first = np.uint64(group) * np.uint64(quarter)
    key0, key1, upper0, upper1 = stream_4[0], stream_4[1], stream_4[2], stream_4[3]
    a, b = out[:quarter], out[quarter : 2 * quarter]
    c, d = out[2 * quarter : 3 * quarter], out[3 * quarter :]
    for j in range(quarter):
        counter = first + np.uint64(j)
        x0, x1 = np.uint32(counter & _LOW), np.uint32(counter >> _32)
        x2, x3 = upper0, upper1
        k0, k1 = key0, key1
        for _ in range(10):
            p0, p1 = np.uint64(x0) * _M0, np.uint64(x2) * _M1
            x0 = np.uint32(p1 >> _32) ^ x1 ^ k0
            x1 = np.uint32(p1 & _LOW)
            x2 = np.uint32(p0 >> _32) ^ x3 ^ k1
            x3 = np.uint32(p0 & _LOW)
            k0, k1 = np.uint32(k0 + _W0), np.uint32(k1 + _W1)
        a[j], b[j], c[j], d[j] = x0, x1, x2, x3


@jit
def drop(
    tau_N: F32, stream_4: Words, start: int, below: np.uint32, kept: np.float32, out_N: F32
) -> None:
    """Write tau / kept where an element's number is `below` or more, else 0."""
    numbers = np.empty(GROUP, np.uint32)
    n, done = tau_N.size, 0
    while done < n:
        group = (start + done) // GROUP
        generate(stream_4, group, numbers)
        skip = start + done - group * GROUP
        size = min(GROUP - skip, n - done)
        tau, out, number = tau_N[done : done + size], out_N[done : done + size], numbers[skip:]
        for i in range(size):
            value = tau[i] / kept
            out[i] = value if number[i] >= below else np.float32(0)
        done += size


@jit
def words(stream_4: Words, start: int, out_N: Words) -> None:
    """The numbers of elements [start, start + N), uint32 (N,)."""
    numbers = np.empty(GROUP, np.uint32)
    n, done = out_N.size, 0
    while done < n:
        group = (start + done) // GROUP
        generate(stream_4, group, numbers)
        skip = start + done - group * GROUP
        size = min(GROUP - skip, n - done)
        out_N[done : done + size] = numbers[skip : skip + size]
        done += size
