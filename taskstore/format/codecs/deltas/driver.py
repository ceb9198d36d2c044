"""`deltas`: a fine-tune given its base, bit for bit, near the entropy: deltas in linear units.

`steps` and `strides` count the floats between two weights. That number depends on where in its
octave the base's weight lies, which no context tells. Here the difference itself is counted, in
eighths of an ulp of the base's weight (of a usual step, where the weight is smaller): its sign, its
octave and 2 or 3 bits below are a symbol; the bits that are left say which float it is, and those
that the float does not have are never written. A weight that lost three octaves or more has a
symbol for how many. Symbols are coded by rANS with 16 contexts at most, by the exponent of the
base's weight and, in matrices, by how far its row and its column moved.

Stream 0 is the head; 1: a byte per row and per column; 2: the contexts' tables; 3: the coder's
states and words; 4: the plain bits. SPEC.md section 4 has the rules.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from taskstore.errors import FormatError
from taskstore.format.codecs.deltas import tables
from taskstore.kernels.entropy import rans
from taskstore.native import classes, delta_tables
from taskstore.native import deltas as loops

Bytes = NDArray[np.uint8]
U = NDArray[Any]  # unsigned view of the weights, uint16 or uint32
Counts = NDArray[np.int64]
HEAD = struct.Struct("<4B5I")
MANTISSAS = {2: (7, 10), 4: (23,)}  # bits, by bytes per element
FINE = 1 << 17  # elements of two bytes from which a third bit of a delta pays for its tables
STATES = 4 * rans.LANES  # bytes
START = np.uint32(rans.START)  # no state is less, so that of nothing is 0
SAMPLE = 1 << 13  # elements from which scales are chosen
LARGEST = 30  # code of a row or column
LAST, SMALL = 231, 240  # symbols between the two do not exist
WRONG = (
    "",
    "a chunk of deltas does not end where its coder does",
    "the plain bits of a chunk of deltas are not those of its symbols",
)


class Head(NamedTuple):
    """Stream 0. `m`: mantissa bits; the last three are sizes: bytes, words, bytes."""

    m: int
    unused: int
    g: int
    f: int
    columns: int
    first: int
    tables: int
    words: int
    plain: int

    @property
    def way(self) -> tuple[int, int, int]:
        """Return what the loops are told of the weights."""
        return self.unused, self.m - self.unused, self.g

    def rows(self, n: int) -> int:
        """Count the rows that a chunk of `n` elements touches."""
        return -(-(self.first + n) // self.columns) if self.columns else 0


@dataclass(frozen=True)
class Deltas:
    """The codec; `columns` (0: rows and columns have no codes) and `first` are for encoding."""

    columns: int = 0
    first: int = 0

    def sizes(self, n: int, itemsize: int) -> tuple[int, ...]:
        """Upper bounds; `sizer` has what a stream must have."""
        return (HEAD.size, n, tables.SIZE, STATES + 2 * n, n * itemsize)

    def sizer(self, n: int, itemsize: int, given_N: U | None) -> Callable[[list[Bytes]], int]:
        def size(before: list[Bytes]) -> int:
            if not before:
                return HEAD.size
            head = _head(before[0], n, itemsize)
            scales = head.rows(n) + head.columns
            return (scales, head.tables, STATES + 2 * head.words, head.plain)[len(before) - 1]

        return size

    def encode(self, chunk_N: U, given_N: U | None) -> list[Bytes]:
        assert given_N is not None
        n, itemsize = chunk_N.size, chunk_N.itemsize
        m, unused = _layout(given_N, chunk_N)
        f = 3 if itemsize == 2 and n >= FINE else 2
        octaves_N = np.empty(n, np.int16)
        loops.octaves(given_N, chunk_N, unused, m - unused, octaves_N)
        g = _usual(octaves_N)
        scales = self._scales(octaves_N)
        columns, first = (self.columns, self.first) if scales.size else (0, 0)
        head = Head(m, unused, g, f, columns, first, 0, 0, 0)
        scales_N = _scales_of(given_N, head, scales)
        one_in = max(1, n // SAMPLE)
        edges = tables.edges_of(one_in * np.bincount(scales_N[::one_in], minlength=256))
        contexts_E = tables.contexts_of(edges)
        symbols_N, room = np.empty(n, np.uint8), np.empty(n * itemsize // 4 + 2, np.uint32)
        loops.symbols(given_N, chunk_N, *head.way, f, symbols_N)
        codes_CS = tables.codes_of(rans.count(symbols_N, scales_N, contexts_E, edges.size))
        states, words = rans.encode(symbols_N, scales_N, contexts_E, tables.shares_of(codes_CS))
        total = loops.plain(given_N, chunk_N, symbols_N, *head.way, f, room)
        plain = room.view(np.uint8)[: (total + 7) // 8].copy()
        coded = tables.write(edges, codes_CS)
        head = head._replace(tables=coded.size, words=words.size, plain=plain.size)
        body = np.frombuffer(
            (states - START).astype("<u4").tobytes() + words.astype("<u2").tobytes(), np.uint8
        )
        return [np.frombuffer(HEAD.pack(*head), np.uint8), scales, coded, body, plain]

    def decode(self, streams: list[Bytes], n: int, itemsize: int, given_N: U | None) -> U:
        """Raises FormatError where the coder does not end as it began, or plain bits are left."""
        assert given_N is not None
        chunk_N, wrong = _decoded(streams, n, given_N)
        if wrong:
            raise FormatError(WRONG[wrong])
        return chunk_N

    def head(self, streams: list[Bytes], n: int, given_H: U) -> U:
        """Decode the first elements of `n`, as many as are given; what follows is not looked at."""
        return _decoded(streams, n, given_H)[0]

    def _scales(self, octaves_N: NDArray[np.int16]) -> Bytes:
        """Choose the codes of rows and columns: half octaves below those that moved farthest."""
        n, columns, first = octaves_N.size, self.columns, self.first
        rows = -(-(first + n) // columns) if columns else 0
        if not columns or 16 * (rows + columns) > n:
            return np.empty(0, np.uint8)
        rows_2R, columns_2K = np.zeros((2, rows), np.int64), np.zeros((2, columns), np.int64)
        delta_tables.sums(octaves_N, first, rows_2R, columns_2K)
        return np.concatenate([_below(*rows_2R), _below(*columns_2K)])


def _decoded(streams: list[Bytes], n: int, given_H: U) -> tuple[U, int]:
    """Decode as many of `n` elements as are given; returns what is wrong at the end, too."""
    head = _head(streams[0], n, given_H.itemsize)
    found = tables.read(streams[2], LAST, SMALL)
    if found is None:
        raise FormatError("the tables of a chunk of deltas make no sense")
    contexts_E, shares_CS = found
    scales, chunk_H = _split(streams[1], head, n), np.empty_like(given_H)
    way, coded, plain = (*head.way, head.f), streams[3], streams[4]
    wrong = loops.decode(given_H, *way, *scales, contexts_E, shares_CS, coded, plain, chunk_H)
    return chunk_H, wrong


def _below(total: Counts, moved: Counts) -> Bytes:
    """How many half octaves the mean of each row or column lies below the largest."""
    count = np.maximum(1, moved)
    mean = (4 * total + count) // (2 * count)
    below = np.where(mean > 0, mean.max(initial=0) - mean, 0)
    codes: Bytes = np.minimum(below, LARGEST).astype(np.uint8)
    return codes


def _usual(octaves_N: NDArray[np.int16]) -> int:
    """Return an exponent that 30 % of the steps are above."""
    counts = np.bincount(octaves_N[:: max(1, octaves_N.size // SAMPLE)], minlength=2)
    counts[0] = 0  # of what did not move
    return max(1, int(np.searchsorted(counts.cumsum(), 0.7 * counts.sum())))


def _layout(w0_N: U, w_N: U) -> tuple[int, int]:
    """Mantissa bits, and how many of the lowest no weight uses. fp16 has larger numbers as bf16."""
    m = MANTISSAS[w0_N.itemsize][0]
    if w0_N.itemsize == 2 and w0_N.size:
        some = np.sort(w0_N[:: max(1, w0_N.size >> 10)] & np.uint16(0x7FFF))
        if some[some.size // 2] >> 7 < 104:  # 2^-23 in bf16, 1/4 in fp16
            m = 10
    used = classes.used_bits(w0_N, w_N)
    return m, min((used & -used).bit_length() - 1, m) if used else 0


def _scales_of(w0_N: U, head: Head, scales: Bytes) -> Bytes:
    """What an element's context is made of, (N,)."""
    scales_N = np.empty(w0_N.size, np.uint8)
    loops.scales(w0_N, *head.way, *_split(scales, head, w0_N.size), scales_N)
    return scales_N


def _split(scales: Bytes, head: Head, n: int) -> tuple[Bytes, Bytes, int]:
    """Codes of rows, of columns, and where in a row a chunk of `n` elements begins."""
    return scales[: head.rows(n)], scales[head.rows(n) :], head.first


def _head(stream: Bytes, n: int, itemsize: int) -> Head:
    """Raises FormatError where no writer makes such a head."""
    head = Head(*HEAD.unpack(stream.tobytes()))
    right = (
        head.m in MANTISSAS[itemsize]
        and head.unused <= head.m
        and head.g >= 1
        and head.f in (2, 3)
        and head.first <= max(0, head.columns - 1)
        and head.rows(n) + head.columns <= n
        and head.tables <= tables.SIZE
        and head.words <= n
        and head.plain <= n * itemsize
    )
    if not right:
        raise FormatError("the head of a chunk of deltas makes no sense")
    return head
