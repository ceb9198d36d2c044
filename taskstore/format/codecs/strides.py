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
row and column, do not pay for their tables. With AVX-512 a core codes an element of bf16 in 2.9 ns
and decodes it in 2.0.

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
from taskstore.native import classes as sizes
from taskstore.native import strides as loops

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
                bits, largest = loops.plain(stream, KEPT[itemsize])
                if largest > LAST[itemsize]:
                    raise FormatError("a step is larger than its dtype allows")
                plain += bits
            return (plain + 7) // 8

        return size

    def encode(self, chunk_N: NDArray[Any], given_N: NDArray[Any] | None) -> list[Bytes]:
        assert given_N is not None
        n, itemsize = chunk_N.size, chunk_N.itemsize
        kept, (shift, unused) = KEPT[itemsize], _chosen(given_N, chunk_N)
        classes, counts = _classes(given_N, shift)
        ends = counts.cumsum()
        order = (classes, (ends - counts).astype(np.uint64))
        sorted_N, words = np.empty(n, np.uint8), np.empty(n * PLAIN[itemsize] // 32 + 2, np.uint32)
        used = loops.encode(given_N, chunk_N, shift, unused, kept, *order, sorted_N, words)
        plain = words.view(np.uint8)[: (used + 7) // 8].copy()
        return [np.array([shift, unused], np.uint8), *np.split(sorted_N, ends[:-1]), plain]

    def decode(
        self, streams: list[Bytes], n: int, itemsize: int, given_N: NDArray[Any] | None
    ) -> NDArray[Any]:
        """Raises FormatError where a padding bit is set, or plain bits are fewer or more."""
        assert given_N is not None
        way = (*_head(streams[0], itemsize), KEPT[itemsize])
        classes, counts = _classes(given_N, way[0])
        order = (classes, (counts.cumsum() - counts).astype(np.uint64))
        sorted_N, chunk_N = np.concatenate(streams[1:-1]), np.empty(n, f"<u{itemsize}")
        if not loops.decode(given_N, *way, *order, sorted_N, streams[-1], chunk_N):
            raise FormatError(
                "steps have other plain bits than their bytes say, or ones in the padding"
            )
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
    used = sizes.used_bits(w0_N, w_N)
    return shift, min((used & -used).bit_length() - 1, shift) if used else 0


def _classes(w0_N: U, shift: int) -> tuple[Bytes, Edges]:
    """Class of each s, uint8 (256,), and the elements of each class, int64 (10,)."""
    by_size = np.empty(256, np.int64)
    sizes.count_sizes(w0_N, shift, by_size)
    least = max(1024, (w0_N.size + 63) // 64)
    classes, counts, c = np.zeros(256, np.uint8), [0] * CLASSES, 0
    for s, many in zip(range(255, -1, -1), by_size[::-1].tolist(), strict=True):
        if counts[c] >= least and c < CLASSES - 1:
            c += 1
        classes[s] = c
        counts[c] += many
    return classes, np.array(counts, np.int64)
