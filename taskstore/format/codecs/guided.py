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

The elements before take it below that entropy. A chunk of 2^18 weights is coded at 149 and
decoded at 134 million weights/s, on one core. The exponent of W0, the sign of tau_MTL and finer
steps than half octaves add nothing; ulps instead of |tau_MTL| lose half of the gain or more.

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
from taskstore.kernels.jit import jit

Bytes = NDArray[np.uint8]
Tau = NDArray[Any]  # uint32 (N,), the bits of tau_MTL in binary32
CELLS = 32
START = 1 << 16  # a coder's state before the first bit is put in and after the last is taken out
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
        ended = _get(_cells(given_N), words, np.uint32(first), np.uint32(second), RATES, n, bits_P)
        if not ended:
            raise FormatError(f"a mask of {n} bits does not end where its coder does")
        return bits_P


def _length(stream: Bytes) -> int:
    return int.from_bytes(stream.tobytes(), "little")


def _coded(bits_P: Bytes, tau_N: Tau) -> Bytes:
    """States and words, little-endian."""
    ones_N = np.empty(tau_N.size, np.uint16)
    _model(_cells(tau_N), bits_P, RATES, ones_N)
    words = np.empty(tau_N.size, np.uint16)
    at, first, second = _put(ones_N, bits_P, words)
    states = np.array([first, second], "<u4").tobytes()
    return np.frombuffer(states + words[at:].astype("<u2").tobytes(), np.uint8)


def _cells(tau_N: Tau) -> Bytes:
    """How many half octaves |tau| lies below the largest of the chunk, at most 31; (N,)."""
    cells_N = np.empty(tau_N.size, np.uint8)
    _below(tau_N, _top(tau_N), cells_N)
    return cells_N


@jit
def _top(tau_N: Tau) -> np.uint32:
    top = np.uint32(0)
    for i in range(tau_N.size):
        top = max(top, tau_N[i] & np.uint32(0x7FFFFFFF))
    return np.uint32(top >> np.uint32(22))


@jit
def _below(tau_N: Tau, top: np.uint32, cells_N: Bytes) -> None:
    for i in range(tau_N.size):
        s = np.uint32((tau_N[i] & np.uint32(0x7FFFFFFF)) >> np.uint32(22))
        cells_N[i] = np.uint8(min(np.uint32(top - s), np.uint32(CELLS - 1)))


@jit
def _model(cells_N: Bytes, bits_P: Bytes, rates: Bytes, ones_N: NDArray[Any]) -> None:
    """The share of ones, of 4096, that each bit is coded with; `_get` learns the same."""
    shares, seen = np.full(8 * CELLS, 1 << 15, np.uint16), np.zeros(8 * CELLS, np.uint8)
    before, ones = np.uint32(0), np.int32(0)
    for i in range(cells_N.size):
        bit = np.int32((bits_P[i >> 3] >> np.uint8(i & 7)) & np.uint8(1))
        c = np.uint32(cells_N[i]) * np.uint32(8) + np.uint32(min(ones >> np.int32(2), np.int32(7)))
        share, k = np.int32(shares[c]), seen[c]
        ones_N[i] = np.uint16(min(max(share >> np.int32(4), np.int32(1)), np.int32(4095)))
        target = (np.int32(0) - bit) & np.int32(0xFFFF)
        shares[c] = np.uint16(share + ((target - share) >> np.int32(rates[k])))
        seen[c] = k + np.uint8(k < 127)
        ones += bit - np.int32(before >> np.uint32(31))
        before = np.uint32(np.uint32(before << np.uint32(1)) | np.uint32(bit))


@jit
def _put(
    ones_N: NDArray[Any], bits_P: Bytes, words: NDArray[Any]
) -> tuple[int, np.uint32, np.uint32]:
    """Code from the last bit to the first, words from the end of `words` on downwards.

    Returns where they begin, and the states that bits 0 and 1 are taken from.
    """
    mine, other, at = np.uint32(START), np.uint32(START), words.size
    for i in range(ones_N.size - 1, -1, -1):
        bit = (bits_P[i >> 3] >> np.uint8(i & 7)) & np.uint8(1)
        share, base = np.uint32(ones_N[i]), np.uint32(0)
        if bit == 0:
            base, share = share, np.uint32(np.uint32(4096) - share)
        if np.uint64(mine) >= np.uint64(share) << np.uint64(20):
            at -= 1
            words[at] = np.uint16(mine & np.uint32(0xFFFF))
            mine = np.uint32(mine >> np.uint32(16))
        whole = np.uint32(mine // share)
        coded = np.uint32((whole << np.uint32(12)) + (mine - whole * share) + base)
        mine, other = other, coded
    return at, other, mine


@jit
def _get(
    cells_N: Bytes,
    words: NDArray[Any],
    mine: np.uint32,
    other: np.uint32,
    rates: Bytes,
    n: int,
    bits_P: Bytes,
) -> bool:
    """Take bits out of the two states in turn; whether both end empty after the last word.

    It never branches on a bit but chooses by masks, which is twice as fast. It learns as `_model`
    does, written again: with functions that serve both it decodes 5 % slower.
    """
    shares, seen = np.full(8 * CELLS, 1 << 15, np.uint16), np.zeros(8 * CELLS, np.uint8)
    before, ones, packed = np.uint32(0), np.int32(0), np.uint8(0)
    at, stop = np.uint64(0), np.uint64(words.size - 1)
    for i in range(n):
        c = np.uint32(cells_N[i]) * np.uint32(8) + np.uint32(min(ones >> np.int32(2), np.int32(7)))
        share, k = np.int32(shares[c]), seen[c]
        f = np.uint32(min(max(share >> np.int32(4), np.int32(1)), np.int32(4095)))
        rest = np.uint32(mine & np.uint32(4095))
        part = np.uint32(f * np.uint32(mine >> np.uint32(12)))
        bit = np.uint32(rest < f)
        every = np.uint32(np.uint32(0) - bit)
        if_one, if_zero = np.uint32(part + rest), np.uint32(mine - part - f)
        state = np.uint32(if_zero ^ ((if_zero ^ if_one) & every))
        few = np.uint32(state < np.uint32(START))
        word = np.uint32(np.uint32(words[at]) & np.uint32(np.uint32(0) - few))
        state = np.uint32(np.uint32(state << np.uint32(few << np.uint32(4))) | word)
        at = min(at + np.uint64(few), stop)
        mine, other = other, state
        target = np.int32(every & np.uint32(0xFFFF))
        shares[c] = np.uint16(share + ((target - share) >> np.int32(rates[k])))
        seen[c] = k + np.uint8(k < 127)
        ones += np.int32(bit) - np.int32(before >> np.uint32(31))
        before = np.uint32(np.uint32(before << np.uint32(1)) | bit)
        packed = np.uint8(packed | np.uint8(bit << np.uint32(i & 7)))
        if i & 7 == 7:
            bits_P[i >> 3] = packed
            packed = np.uint8(0)
    if n & 7:
        bits_P[n >> 3] = packed
    return bool(at == stop - np.uint64(1) and mine == START and other == START)
