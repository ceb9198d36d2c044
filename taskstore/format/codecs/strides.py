"""`strides`: a fine-tune as steps from the base, bit for bit, smaller than `steps`; for archives.

The step is counted in floats, as in `ulp`, but away from zero instead of upwards: weight decay
makes more weights shrink than grow (0.08 bits). A step becomes one byte, its sign and its leading
bits like a small float. The bits that are left of it are random and kept as plain bits. So there
are no escapes and few different bytes, and the entropy coder's tables are short. The bytes are
sorted into 10 classes by the size of the base's weight. Bits per parameter, all fine-tunes of a
family, and W1 as lsq and sum make it:

    family                        strides   steps     ulp
    lm6, bf16                        7.16    7.28    8.27
    numerals, bf16                   6.26    6.40    7.50
    vision4, fp32                   22.88       -   23.92
    vision4, cast to fp16            9.81   10.52   10.75
    W1 of lm6, lsq                   8.03    8.23    9.53
    W1 of lm6, sum                   8.98    9.22    9.97
    W1 of numerals, lsq              5.97    6.14    7.96

More classes, by the leading bits of the base's mantissa, by what moved before in the row, or by
row and column, do not pay for their tables. A chunk of 2^18 elements of bf16 is coded at 197 and
decoded at 265 MB/s of checkpoint, on one core.

Stream 0 is two bytes. The first is the number of bits by which the base's weights are shifted to
get their size s: 7 for bf16, 10 for fp16, 23 for fp32, so that s is the exponent. The second is the
number of low bits that no weight of either model uses: an fp32 file often holds bf16 values.
Streams 1 to 10: bytes of the classes, in the order of their elements. Stream 11: the plain bits,
LSB first. A class takes values of s from the top down until it has max(1024, ceil(N / 64))
elements, the last what is left.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskstore.errors import FormatError
from taskstore.format.codecs import loops
from taskstore.kernels.jit import jit

Bytes = NDArray[np.uint8]
U = NDArray[Any]  # unsigned view of the weights, uint16 or uint32
Edges = NDArray[np.int64]
CLASSES = 10
KEPT = {2: 3, 4: 2}  # bits after the leading one that a step's byte holds, by bytes per element
LAST = {2: 103, 4: 119}  # the upper seven bits of the byte of the largest step
PLAIN = {2: 11, 4: 28}  # and how many plain bits that has


class Strides:
    def sizes(self, n: int, itemsize: int) -> tuple[int, ...]:
        """Upper bounds; `sizer` has what a stream must have."""
        return (2, *(n,) * CLASSES, (n * PLAIN.get(itemsize, 0) + 7) // 8)

    def sizer(
        self, n: int, itemsize: int, given_N: NDArray[Any] | None
    ) -> Callable[[list[Bytes]], int]:
        assert given_N is not None
        counts: list[int] = []

        def size(before: list[Bytes]) -> int:
            """Raises FormatError where the bytes before are none that a writer makes."""
            if not before:
                return 2
            if not counts:
                counts.extend(_classes(given_N, _head(before[0], itemsize)[0])[1].tolist())
            if len(before) <= CLASSES:
                return counts[len(before) - 1]
            plain = 0
            for stream in before[1:]:
                bits, largest = _plain(stream, KEPT[itemsize])
                if largest > LAST[itemsize]:
                    raise FormatError("a step is larger than its dtype allows")
                plain += bits
            return (plain + 7) // 8

        return size

    def encode(self, chunk_N: NDArray[Any], given_N: NDArray[Any] | None) -> list[Bytes]:
        assert given_N is not None
        n, itemsize = chunk_N.size, chunk_N.itemsize
        kept, (shift, unused) = KEPT[itemsize], _chosen(given_N, chunk_N)
        bytes_N, sorted_N = np.empty((2, n), np.uint8)
        far_N = np.empty_like(chunk_N)
        _steps(given_N, chunk_N, unused, far_N)
        _shorten(far_N, kept, bytes_N)
        classes, counts = _classes(given_N, shift)
        ends = counts.cumsum()
        loops.sort(given_N, shift, bytes_N, classes, (ends - counts).astype(np.uint64), sorted_N)
        words = np.zeros((_plain(bytes_N, kept)[0] + 31) // 32 + 2, np.uint32)
        used = _write(far_N, bytes_N, kept, words)
        plain = words.astype("<u4").view(np.uint8)[: (used + 7) // 8]
        return [np.array([shift, unused], np.uint8), *np.split(sorted_N, ends[:-1]), plain]

    def decode(
        self, streams: list[Bytes], n: int, itemsize: int, given_N: NDArray[Any] | None
    ) -> NDArray[Any]:
        """Raises FormatError where a padding bit is set."""
        assert given_N is not None
        (shift, unused), plain = _head(streams[0], itemsize), streams[-1]
        classes, counts = _classes(given_N, shift)
        bytes_N, chunk_N = np.empty(n, np.uint8), np.empty(n, f"<u{itemsize}")
        sorted_N = np.concatenate(streams[1:-1])
        starts = (counts.cumsum() - counts).astype(np.uint64)
        loops.unsort(given_N, shift, sorted_N, classes, starts, bytes_N)
        words = np.zeros(plain.size // 4 + 2, "<u4")
        words.view(np.uint8)[: plain.size] = plain
        used = _read(bytes_N, KEPT[itemsize], words, chunk_N)
        if used % 8 and int(plain[-1]) >> (used % 8):
            raise FormatError("steps have ones in the padding of their plain bits")
        _apply(given_N, bytes_N, unused, chunk_N)
        return chunk_N


def _head(stream: Bytes, itemsize: int) -> tuple[int, int]:
    """Raises FormatError unless s would have 1 to 8 bits and unused bits lie below it."""
    shift, unused = stream.tolist()
    if not 8 * itemsize - 9 <= shift <= 8 * itemsize - 2:
        raise FormatError(f"the sizes of {itemsize}-byte weights are shifted by {shift} bits")
    if unused > shift:
        raise FormatError(f"{unused} bits of a weight are unused, {shift} lie below its size")
    return shift, unused


def _chosen(w0_N: U, w_N: U) -> tuple[int, int]:
    """Shift and unused bits. fp16 has too many sizes for 10 classes when it is read as bf16."""
    shift = 8 * w0_N.itemsize - 9
    if w0_N.itemsize == 2 and 4 * int(_classes(w0_N, shift)[1][-1]) > w0_N.size:
        shift += 3
    used = int(_used(w0_N, w_N))
    return shift, min((used & -used).bit_length() - 1, shift) if used else 0


def _classes(w0_N: U, shift: int) -> tuple[Bytes, Edges]:
    """Class of each s, uint8 (256,), and the elements of each class, int64 (10,)."""
    by_size = np.zeros((4, 256), np.int64)
    loops.count_sizes(w0_N, shift, by_size)
    classes, counts = np.zeros(256, np.uint8), np.zeros(CLASSES, np.int64)
    _share(by_size.sum(0), max(1024, (w0_N.size + 63) // 64), classes, counts)
    return classes, counts


@jit
def _share(by_size: Edges, least: int, classes: Bytes, counts: Edges) -> None:
    c = 0
    for s in range(255, -1, -1):
        if counts[c] >= least and c < counts.size - 1:
            c += 1
        classes[s] = c
        counts[c] += by_size[s]


@jit
def _left(v: Any, kept: int) -> Any:
    """How many plain bits a step has whose byte's upper seven bits are `v`."""
    return np.uint8(max(np.uint8(v >> np.uint8(kept)), np.uint8(1)) - np.uint8(1))


@jit
def _plain(bytes_N: Bytes, kept: int) -> tuple[int, int]:
    """Plain bits that these steps have, and the largest of their upper seven bits."""
    total, largest = np.uint32(0), np.uint8(0)
    for i in range(bytes_N.size):
        v = np.uint8(bytes_N[i] >> np.uint8(1))
        total += np.uint32(_left(v, kept))
        largest = max(largest, v)
    return int(total), int(largest)


@jit
def _used(w0_N: U, w_N: U) -> int:
    """Bits that some weight has set."""
    used = np.uint32(0)
    for i in range(w0_N.size):
        used |= np.uint32(w0_N[i] | w_N[i])
    return int(used)


# Each loop does one thing: it is vectorised, or waits for one address alone.


@jit
def _steps(w0_N: U, w_N: U, unused: int, far_N: U) -> None:
    """The step in floats away from zero: that of `ulp` between weights whose base is positive."""
    U = w0_N.dtype.type
    below, low = U(np.iinfo(U).max >> 1), U(unused)
    for i in range(w0_N.size):
        crossed = U(U(w_N[i] ^ w0_N[i]) & U(~below))
        size0, size = U(U(w0_N[i] & below) >> low), U(U(w_N[i] & below) >> low)
        far_N[i] = loops.step(size0, U(size | crossed), U)


@jit
def _shorten(far_N: U, kept: int, bytes_N: Bytes) -> None:
    """A step's byte. A float's exponent and leading bits are what it needs, and exact here."""
    drop = np.uint64(52 - kept)
    lowest = np.uint64(((1023 + kept) << kept) - (1 << kept))
    for i in range(far_N.size):
        half = np.uint32(far_N[i] >> np.uint8(1))
        v = np.uint32((np.float64(half).view(np.uint64) >> drop) - lowest)
        v = v if half >= np.uint32(1 << kept) else half
        bytes_N[i] = np.uint8((v << np.uint32(1)) | np.uint32(far_N[i] & np.uint8(1)))


@jit
def _write(far_N: U, bytes_N: Bytes, kept: int, words: NDArray[Any]) -> int:
    """The plain bits, one element's after the other's; returns how many."""
    held, fill, at, used = np.uint64(0), np.uint64(0), np.uint64(0), np.uint64(0)
    for i in range(far_N.size):
        v = np.uint64(bytes_N[i] >> np.uint8(1))
        r = np.uint64(_left(np.uint8(v), kept))
        low = np.uint64(far_N[i] >> np.uint8(1)) & ((np.uint64(1) << r) - np.uint64(1))
        held |= low << fill
        fill += r
        used += r
        words[at] = np.uint32(held & np.uint64(0xFFFFFFFF))  # stays only where `at` moves on
        full = fill >> np.uint64(5)
        at += full
        held >>= full << np.uint64(5)
        fill &= np.uint64(31)
    words[at] = np.uint32(held)
    return int(used)


@jit
def _read(bytes_N: Bytes, kept: int, words: NDArray[Any], far_N: U) -> int:
    """Steps without their signs from bytes and plain bits; returns how many of those."""
    used = np.uint64(0)
    for i in range(bytes_N.size):
        v = np.uint64(bytes_N[i] >> np.uint8(1))
        r = np.uint64(_left(np.uint8(v), kept))
        at = used >> np.uint64(5)
        pair = np.uint64(words[at]) | (np.uint64(words[at + np.uint64(1)]) << np.uint64(32))
        low = (pair >> (used & np.uint64(31))) & ((np.uint64(1) << r) - np.uint64(1))
        far_N[i] = far_N.dtype.type(((v - (r << np.uint64(kept))) << r) | low)
        used += r
    return int(used)


@jit
def _apply(w0_N: U, bytes_N: Bytes, unused: int, far_N: U) -> None:
    """From steps without signs to weights, in place."""
    U = w0_N.dtype.type
    below, low = U(np.iinfo(U).max >> 1), U(unused)
    for i in range(w0_N.size):
        z = U(U(far_N[i] << U(1)) | U(bytes_N[i] & np.uint8(1)))
        w = loops.stepped(U(U(w0_N[i] & below) >> low), z, U)
        far_N[i] = U(U(U(w << low) & below) | U(U(w ^ w0_N[i]) & U(~below)))
