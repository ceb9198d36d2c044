"""`factored`: a quantised vector below two bits: a low-rank part under `levels`, and few of these.

What a fine-tune changes in a matrix has a part of low rank, which takes few bits as two factors of
small whole numbers (kernels/factored). What they leave is quantised as in `levels`, with large
steps. Where nearly all of its levels are 0, the others are told by where they are; such bits are
those of the entropy. Kept at the same error, three families took 0.6, 0.4 and 0.2 of the bits that
`levels` takes (docs/fidelity.md).

A section has two streams before those of the chunks. The first is a head: columns, unit, rank,
length of the second; the second has the factors, from the range coder. The streams of a chunk are
those of `levels`, but the radix in the head may be 1: then the third stream is from the range
coder, and the head says how many levels are not 0 and how long it is.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskstore.errors import FormatError
from taskstore.format.codecs.levels import Levels
from taskstore.format.codecs.levels import quantised as dense
from taskstore.kernels import symbols as packing
from taskstore.kernels.factored.low_rank import LARGEST, MAX_RANK, UNITS, LowRank
from taskstore.kernels.quantise import F32, MAX_STRETCH, Bytes, Quantised, quantise
from taskstore.native import range_coder

LEAD = struct.Struct("<IhBxI4x")  # columns, unit, rank, length; 16 bytes
FEW = struct.Struct("<IIhBb8sII4x")  # as of `levels`, then levels that are not 0, and their bytes
SHARE = 0.06  # of levels that are not 0, to which they are told by where they are
NUMBER = 3  # bytes that a number takes at most
ROOM = 64  # and a coder's end
PLAIN = 4  # the radix in memory of levels that are few


@dataclass(frozen=True)
class Factored(Levels):
    """The codec of a chunk; `most` matters for encoding only: how far a row is stretched."""

    most: float = MAX_STRETCH

    def sizer(
        self, n: int, itemsize: int, given_N: NDArray[Any] | None
    ) -> Callable[[list[Bytes]], int]:
        as_levels = super().sizer(n, itemsize, given_N)

        def size(before: list[Bytes]) -> int:
            if not before or not _is_few(before[0]):
                return as_levels(before)
            length = _few(before[0], n)[1]
            if len(before) == 1:
                return as_levels([_as_dense(before[0])])
            return length if len(before) == 2 else 0

        return size

    def encode(self, chunk_N: NDArray[Any], given_N: NDArray[Any] | None) -> list[Bytes]:
        """Bits of float32 -> streams; of float32 that are given, the part of low rank."""
        part_N = None if given_N is None else given_N.view(np.float32)
        ends = (self.columns or max(1, chunk_N.size), self.first, self.step, part_N, self.most)
        rows, points, z_N = quantise(chunk_N.view(np.float32), *ends)
        where_E = np.flatnonzero(z_N).astype(np.uint32)
        if where_E.size <= SHARE * z_N.size:
            out = np.empty(NUMBER * 4 * where_E.size + ROOM, np.uint8)
            found = out[: range_coder.put_few(where_E, z_N[where_E], out)].copy()
            if found.size <= z_N.size:
                low = points.low.tobytes()
                head = FEW.pack(rows.columns, rows.first, rows.unit, 1, points.offset, low,
                                where_E.size, found.size)  # fmt: skip
                none = np.zeros(0, np.uint8)
                return [np.frombuffer(head, np.uint8), rows.codes_R, found, none, none]
        return self._streams(rows, points, z_N)

    def decode(
        self, streams: list[Bytes], n: int, itemsize: int, given_N: NDArray[Any] | None
    ) -> NDArray[Any]:
        """Bits of float32, without the part of low rank."""
        return quantised(streams, n).values().view(np.uint32)


def _is_few(head: Bytes) -> bool:
    return int(head[10]) == 1


def _as_dense(head: Bytes) -> Bytes:
    """The same head with a radix that `levels` knows."""
    copy = head.copy()
    copy[10], copy[20:] = PLAIN, 0
    return copy


def _few(head: Bytes, n: int) -> tuple[int, int]:
    """How many levels are not 0, and their bytes; raises FormatError."""
    *_, count, length = FEW.unpack(head.tobytes())
    if count > n or length > n:
        raise FormatError("a chunk has more levels than elements")
    return count, length


def quantised(streams: list[Bytes], n: int) -> Quantised:
    """The levels of a chunk from its streams; raises FormatError."""
    if not _is_few(streams[0]):
        if streams[0][20:].any():
            raise FormatError("the head of a chunk of levels makes no sense")
        return dense(streams, n)
    count, _ = _few(streams[0], n)
    where_E, z_E = np.empty(count, np.uint32), np.empty(count, np.uint16)
    if not range_coder.few(streams[2], n, where_E, z_E):
        raise FormatError("a level stands past the end of its chunk, or is too large")
    symbols = np.zeros(-(-n // packing.PACKED[PLAIN]), np.uint8)
    range_coder.place(where_E, z_E, symbols)
    large_E = z_E >= PLAIN - 1
    none = np.zeros(0, np.uint8)
    known = dense([_as_dense(streams[0]), streams[1], np.zeros(0, np.uint8), none, none], 0)
    return replace(known, n=n, symbols=symbols, where_E=where_E[large_E], z_E=z_E[large_E])


def joined(chunk: Quantised, low_rank: LowRank | None, start: int) -> Quantised:
    """A chunk that begins at element `start`, with its rows of the low-rank part.

    Raises FormatError.
    """
    if low_rank is None:
        return chunk
    rows = chunk.rows
    if (rows.columns, rows.first) != (low_rank.columns, start % low_rank.columns):
        raise FormatError("the rows of a chunk are not those of its factors")
    return replace(chunk, low_rank=low_rank.rows(start, chunk.n))


def lead_sizes(n: int) -> tuple[int, int]:
    """Upper bounds; `lead_sizer` has what a stream must have."""
    return LEAD.size, 3 * NUMBER * n + ROOM


def lead_sizer(n: int) -> Callable[[list[Bytes]], int]:
    """Sizes of the streams before the chunks of a tensor of `n` elements."""

    def size(before: list[Bytes]) -> int:
        """Raises FormatError where factors do not multiply to such a tensor."""
        if not before:
            return LEAD.size
        columns, unit, rank, length = LEAD.unpack(before[0].tobytes())
        if (not columns and before[0].any()) or (columns and n % columns):
            raise FormatError(f"factors of {columns} columns do not make {n} elements")
        rows = n // columns if columns else 0
        if rank > min(rows, columns, MAX_RANK) or (columns and not rank):
            raise FormatError(f"factors of rank {rank} are not for {rows} rows of {columns}")
        if unit not in UNITS or length > NUMBER * (rows + rank * (rows + columns + 2)) + 4:
            raise FormatError("the head of factors makes no sense")
        return int(length)

    return size


def low_rank(streams: list[Bytes], n: int) -> LowRank | None:
    """The factors of a tensor from the streams before its chunks; raises FormatError."""
    columns, unit, rank, _ = LEAD.unpack(streams[0].tobytes())
    if not columns:
        return None
    rows = n // columns
    codes_M, heads_R3 = np.empty(rows, np.uint8), np.empty((rank, 3), np.uint8)
    left_RM, right_RN = np.empty((rank, rows), np.int8), np.empty((rank, columns), np.int8)
    fits = range_coder.factors(streams[1], codes_M, heads_R3, left_RM, right_RN)
    found = LowRank(columns, unit, codes_M, heads_R3[:, 0].copy(), left_RM, right_RN)
    if not fits or found.largest() >= LARGEST:
        raise FormatError("factors have numbers that are too large")
    return found


def lead(found: LowRank | None) -> list[Bytes]:
    """The streams before the chunks."""
    if found is None or not found.rank:
        return [np.zeros(LEAD.size, np.uint8), np.zeros(0, np.uint8)]
    kinds = [_classes(factor) for factor in (found.left_RM, found.right_RN)]
    heads_R3 = np.stack([found.shifts_R, *kinds], 1).astype(np.uint8)
    numbers = found.codes_M.size + found.rank * (found.codes_M.size + found.columns + 2)
    out = np.empty(NUMBER * numbers + ROOM, np.uint8)
    left_RM, right_RN = np.ascontiguousarray(found.left_RM), np.ascontiguousarray(found.right_RN)
    used = range_coder.put_factors(found.codes_M, heads_R3, left_RM, right_RN, out)
    head = LEAD.pack(found.columns, found.unit, found.rank, used)
    return [np.frombuffer(head, np.uint8), out[:used].copy()]


def _classes(factor_RM: NDArray[np.int8]) -> NDArray[np.float64]:
    """By half octaves of its root mean square: components of one class share what is learnt."""
    rms_R = np.sqrt(np.square(factor_RM.astype(np.float64)).mean(1))
    classes: NDArray[np.float64] = np.rint(2 * np.log2(rms_R.clip(0.3))).clip(-3, 12) + 3
    return classes


def part_of(found: LowRank | None, start: int, n: int) -> F32 | None:
    """Elements [start, start + n) of the low-rank part, float32."""
    if found is None:
        return None
    values_N = np.zeros(n, np.float32)
    found.rows(start, n).add(start % found.columns, values_N)
    return values_N
