"""`guided`: a packed TALL-mask, coded given tau_MTL, for archives.

Whether a task wants a weight depends on how far the multi-task model moves it, which the decoder
knows from W1 and W0. Each bit is coded with a probability that is learnt as bits go by, one per
context: 32 half octaves of |tau_MTL|, largest first, times how many of the 32 elements before are
set, since rows differ. An entropy coder with two interleaved states (rANS, Duda,
arXiv 1311.2540) comes within 0.002 bits of what those probabilities are worth.

Bits per weight and task (lsq, lambda 0.45; sum, lambda 0.4), beside a mask by zstd (`bits`) and
the entropy of each chunk given the half octave alone:

                        lsq                         sum
    family              guided    bits  entropy     guided    bits  entropy
    lm6, bf16            0.829   0.906    0.839      0.724   0.920    0.730
    vision4, fp32        0.873   0.939    0.871      0.792   0.933    0.787
    numerals, bf16       0.900   0.942    0.930      0.846   0.967    0.862

The elements before take it below that entropy. A core takes 4.6 ns a weight to code and 4.5 to
decode. The exponent of W0, the sign of tau_MTL and finer steps than half octaves add nothing; ulps
instead of |tau_MTL| lose half of the gain or more.

`given` is uint32 (N,): the bits of F32(W1) - F32(W0), one binary32 subtraction, so one codec does
for bf16, fp16 and fp32. Lossless for every mask and every `given`.

Stream 0 is the length S of stream 1. S = 0: the mask is all zero. S = ceil(N / 8): stream 1 is the
mask. Else stream 1 is the coder's two states and its 16-bit words, as SPEC.md section 4 defines.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskstore.errors import FormatError
from taskstore.format.codecs.bits import Bits
from taskstore.kernels.bits import packed_size
from taskstore.native import guided as loops

Bytes = NDArray[np.uint8]
Tau = NDArray[Any]  # uint32 (N,), the bits of tau_MTL in binary32
STATES = 8  # bytes
RATES = np.array([min(8, (c + 1).bit_length()) for c in range(128)], np.uint8)


class Guided:
    def sizes(self, n: int, itemsize: int) -> tuple[int, ...]:
        """Upper bounds; `sizer` has what a stream must have."""
        return (4, packed_size(n))

    def sizer(
        self, n: int, itemsize: int, given_N: NDArray[Any] | None
    ) -> Callable[[list[Bytes]], int]:
        def size(before: list[Bytes]) -> int:
            if not before:
                return 4
            length, whole = _length(before[0]), packed_size(n)
            if length not in (0, whole) and (length % 2 or not STATES <= length < whole):
                raise FormatError(f"a mask of {n} bits is coded in {length} bytes")
            return length

        return size

    def encode(self, chunk_N: NDArray[Any], given_N: NDArray[Any] | None) -> list[Bytes]:
        assert given_N is not None
        coded = _coded(chunk_N, given_N) if chunk_N.any() else np.empty(0, np.uint8)
        body = coded if coded.size < chunk_N.size else chunk_N
        return [np.frombuffer(np.uint32(body.size).astype("<u4").tobytes(), np.uint8), body]

    def decode(
        self, streams: list[Bytes], n: int, itemsize: int, given_N: NDArray[Any] | None
    ) -> Bytes:
        """Raises FormatError where a padding bit is set or the coder does not end as it began."""
        assert given_N is not None
        body, bits_P = streams[1], np.zeros(packed_size(n), np.uint8)
        if body.size == 0:
            return bits_P
        if body.size == bits_P.size:
            return Bits().decode([body], n, itemsize, None)
        first, second = np.frombuffer(body[:STATES].tobytes(), "<u4").tolist()
        words = np.frombuffer(body[STATES:].tobytes() + bytes(4), "<u2")  # two more to run into
        if not loops.get(_cells(given_N), words, first, second, RATES, bits_P):
            raise FormatError(f"a mask of {n} bits does not end where its coder does")
        return bits_P


def _length(stream: Bytes) -> int:
    return int.from_bytes(stream.tobytes(), "little")


def _coded(bits_P: Bytes, tau_N: Tau) -> Bytes:
    """States and words, little-endian."""
    ones_N = np.empty(tau_N.size, np.uint16)
    loops.model(_cells(tau_N), bits_P, RATES, ones_N)
    words = np.empty(tau_N.size, np.uint16)
    states = np.empty(2, np.uint32)
    at = loops.put(ones_N, bits_P, words, states)
    return np.frombuffer(states.tobytes() + words[at:].tobytes(), np.uint8)


def _cells(tau_N: Tau) -> Bytes:
    """How many half octaves |tau| lies below the largest of the chunk, at most 31; (N,)."""
    cells_N = np.empty(tau_N.size, np.uint8)
    loops.cells(tau_N, cells_N)
    return cells_N
