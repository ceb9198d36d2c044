"""`steps`: a fine-tune of 16-bit floats as steps from the base, bit for bit, for archives.

The step is the one of `ulp`: how many floats lie between the two, folded by zigzag. Most fit a
byte; 255 says that the value stands among the escapes. How far a weight moves depends on how large
it is: an ulp of a small weight is a small step. The decoder knows the base's weights, so the bytes
are sorted into 16 classes by size, each coded on its own: 7.28 bits per bf16 parameter on
`lm6` (mean of six), where the byte planes of `ulp` take 8.27 and those of an XOR 8.95. With AVX-512
a core codes an element in 1.9 ns and decodes it in 1.4.

Streams 0 to 15: the bytes of class c, in order of their elements, where

    class = min(15, top - s),  s = (x & 0x7FFF) >> 7,  top = the largest s of the base's chunk

(for bf16 s is the exponent). Streams 16 and 17: low and high bytes of the escaped values. So a
stream's size follows from the base's chunk and the streams before it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskstore.errors import FormatError
from taskstore.native import classes as sizes
from taskstore.native import steps as loops

Bytes = NDArray[np.uint8]
CLASSES = 16
ESCAPE = 255
SHIFT = 7  # of a weight without its sign: what is left is its size s


class Steps:
    def sizes(self, n: int, itemsize: int) -> tuple[int, ...]:
        """Upper bounds; `sizer` has what a stream must have."""
        return (n,) * (CLASSES + 2)

    def sizer(
        self, n: int, itemsize: int, given_N: NDArray[Any] | None
    ) -> Callable[[list[Bytes]], int]:
        assert given_N is not None
        counts = classes_of(given_N)[1]
        return lambda before: size_after(before, counts)

    def encode(self, chunk_N: NDArray[Any], given_N: NDArray[Any] | None) -> list[Bytes]:
        assert given_N is not None
        classes, counts = classes_of(given_N)
        ends = counts.cumsum()
        sorted_N, escapes_N = np.empty(chunk_N.size, np.uint8), np.empty(chunk_N.size, np.uint16)
        order = (SHIFT, classes, _starts(ends))
        escapes = escapes_N[: loops.encode(given_N, chunk_N, *order, sorted_N, escapes_N)]
        low, high = (escapes & 0xFF).astype(np.uint8), (escapes >> 8).astype(np.uint8)
        return [*np.split(sorted_N, ends[:-1]), low, high]

    def decode(
        self, streams: list[Bytes], n: int, itemsize: int, given_N: NDArray[Any] | None
    ) -> NDArray[Any]:
        """Raises FormatError where an escaped value needs no escape."""
        assert given_N is not None
        escapes, chunk_N = escapes_of(streams), np.empty(n, np.uint16)
        starts = _starts(np.cumsum([stream.size for stream in streams[:CLASSES]]))
        order = (SHIFT, classes_of(given_N)[0], starts)
        if not loops.decode(given_N, *order, np.concatenate(streams[:CLASSES]), escapes, chunk_N):
            raise FormatError("steps have another number of escapes than bytes that tell of one")
        return chunk_N


def size_after(before: list[Bytes], counts: NDArray[np.int64]) -> int:
    """Return the raw size of the stream after those `before`; `counts`: elements of each class."""
    if len(before) < CLASSES:
        return int(counts[len(before)])
    return sum(int(np.count_nonzero(stream == ESCAPE)) for stream in before[:CLASSES])


def escapes_of(streams: list[Bytes]) -> NDArray[np.uint16]:
    """Steps that do not fit a byte, in order of their elements; raises FormatError."""
    low, high = (stream.astype(np.uint16) for stream in streams[CLASSES:])
    escapes: NDArray[np.uint16] = low | (high << np.uint16(8))
    if escapes.size and int(escapes.min()) < ESCAPE:
        raise FormatError("a step is escaped that fits a byte")
    return escapes


def _starts(ends: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Where each class begins among the sorted bytes, (16,)."""
    return np.append(0, ends[:-1]).astype(np.uint64)


def classes_of(w0_N: NDArray[Any]) -> tuple[Bytes, NDArray[np.int64]]:
    """Class of each s, uint8 (256,), and elements of each class, int64 (16,)."""
    by_size = np.empty(256, np.int64)
    sizes.count_sizes(w0_N, SHIFT, by_size)
    top = int(by_size.nonzero()[0].max(initial=0))
    classes = np.clip(top - np.arange(256), 0, CLASSES - 1).astype(np.uint8)
    counts = np.bincount(classes, weights=by_size, minlength=CLASSES).astype(np.int64)
    return classes, counts
