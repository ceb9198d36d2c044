"""`levels`: a quantised vector at a few bits per element, what is missing after the tier below.

An element is given by a small integer q and its row's step (`quantise` chooses both):

    v = sign(q) points[|q|] step_of_row,   points in 1/32, step_of_row = (16 + m) 2^(e + unit)

A product has at most 24 bits and is exact in float32, so v has one value on every machine, with
fused multiplication or without. With AVX-512 a core decodes an element in half a nanosecond.

Streams 0: head, 1: one byte per row (m in the low four bits, e above; 0 is a step of zero), 2: q,
folded by zigzag, as `symbols`, 3 and 4: low and high bytes of their escapes. zstd's Huffman codes
need whole bits, and two or more symbols at once waste less of them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskstore.errors import FormatError
from taskstore.kernels import symbols as packing
from taskstore.kernels.quantise import (
    F32,
    MAX_LEVEL,
    UNITS,
    Bytes,
    Points,
    Quantised,
    Rows,
    quantise,
)

HEAD = struct.Struct("<IIhBb8s12x")  # columns, first, unit, radix, offset, points 0 to 7; 32 bytes


@dataclass(frozen=True)
class Levels:
    """The codec; `step`, `columns` (0: all is one row) and `first` matter for encoding only."""

    step: float = 1.0
    columns: int = 0
    first: int = 0

    def sizes(self, n: int, itemsize: int) -> tuple[int, ...]:
        """Upper bounds; `sizer` has what a stream must have."""
        return (HEAD.size, n, n, n, n)

    def sizer(
        self, n: int, itemsize: int, given_N: NDArray[Any] | None
    ) -> Callable[[list[Bytes]], int]:
        def size(before: list[Bytes]) -> int:
            if not before:
                return HEAD.size
            rows, _, radix = _head(before[0], before[0])
            if len(before) == 1:
                return -(-(rows.first + n) // rows.columns) if n else 0
            if len(before) == 2:
                return -(-n // packing.PACKED[radix])
            if len(before) == 4:
                return before[3].size
            if not packing.is_whole(before[2], radix, n):
                raise FormatError("a byte of levels holds no symbols of its radix")
            return packing.count_escapes(before[2], radix)

        return size

    def encode(self, chunk_N: NDArray[Any], given_N: NDArray[Any] | None) -> list[Bytes]:
        """Bits of float32, finite -> streams; what they decode to is near, not the same."""
        return self._streams(*self._quantise(chunk_N.view(np.float32)))

    def _streams(self, rows: Rows, points: Points, z_N: NDArray[np.uint16]) -> list[Bytes]:
        radix = packing.choose_radix(z_N)
        symbols, excess_E = packing.pack(z_N, radix)
        low = points.low.tobytes()
        head = HEAD.pack(rows.columns, rows.first, rows.unit, radix % 256, points.offset, low)
        escapes = [(excess_E >> shift).astype(np.uint8) for shift in (0, 8)]
        return [np.frombuffer(head, np.uint8), rows.codes_R, symbols, *escapes]

    def near(self, vector_N: F32) -> F32:
        """Return what a vector, float32 (N,), comes back as, without streams between."""
        rows, points, z_N = self._quantise(vector_N)
        return rows.scaled(points.of(z_N))

    def _quantise(self, vector_N: F32) -> tuple[Rows, Points, NDArray[np.uint16]]:
        return quantise(vector_N, self.columns or max(1, vector_N.size), self.first, self.step)

    def decode(
        self, streams: list[Bytes], n: int, itemsize: int, given_N: NDArray[Any] | None
    ) -> NDArray[Any]:
        """Bits of v, float32."""
        return quantised(streams, n).values().view(np.uint32)


def quantised(streams: list[Bytes], n: int) -> Quantised:
    """The levels of a chunk from its streams; raises FormatError."""
    rows, points, radix = _head(streams[0], streams[1])
    symbols, excess = streams[2], streams[3].astype(np.uint16)
    excess |= streams[4].astype(np.uint16) << np.uint16(8)
    if excess.size and int(excess.max()) + radix - 1 > 2 * MAX_LEVEL:
        raise FormatError("a level is too large")
    where_E = packing.find_escapes(symbols, radix, excess.size)
    return Quantised(n, radix, symbols, rows, points, where_E, excess + np.uint16(radix - 1))


def _head(stream: Bytes, codes_R: Bytes) -> tuple[Rows, Points, int]:
    """Rows, points and radix; raises FormatError."""
    columns, first, unit, radix, offset, points = HEAD.unpack(stream.tobytes())
    radix = radix or 256
    if not columns > first or radix not in packing.PACKED or unit not in UNITS or points[0]:
        raise FormatError("the head of a chunk of levels makes no sense")
    rows = Rows(columns, first, unit, codes_R)
    return rows, Points(np.frombuffer(points, np.uint8), offset), radix
