"""An adaptive range coder for small whole numbers: factors of a rest, and levels that are few.

A number of a context is its bucket, whose share is learnt on the way, and the bits that are left of
it, which are plain. Buckets are 0, 1, 2, 3 and then two for each power of two. SPEC.md, section 4,
fixes every step.

Legend: N = elements of a chunk, E = those that are not 0, C = contexts, B = buckets; M = rows, N =
columns and R = rank of a factored matrix.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskstore.kernels.jit import jit

Bytes = NDArray[np.uint8]
I8 = NDArray[np.int8]
U32 = NDArray[np.uint32]
U64 = NDArray[np.uint64]
BUCKETS = 50  # up to 2^25 - 1
MORE, MOST = 24, 1 << 15  # what a count grows by, and where all of a context are halved
LOWEST = 1 << 24  # of the range
CLASSES = 16  # of a factor's step: contexts of its numbers
ROOM = 64


@jit
def _bucket(size: int) -> tuple[int, int]:
    """The bucket of a number, and how many bits are left of it."""
    if size < 4:
        return size, 0
    e = 0
    while size >> (e + 1):
        e += 1
    return 2 * e + ((size >> (e - 1)) & 1), e - 1


@jit
def _push(state: U64, out: Bytes) -> None:
    """One byte out. State: low, range, the byte that waits, how many wait, how many are out."""
    low = state[0]
    if low < np.uint64(0xFF000000) or low >> np.uint64(32):
        carry, byte = low >> np.uint64(32), state[2]
        while state[3]:
            if state[4]:  # the very first byte is always 0 and left out
                out[state[4] - np.uint64(1)] = np.uint8((byte + carry) & np.uint64(255))
            state[4] += np.uint64(1)
            state[3] -= np.uint64(1)
            byte = np.uint64(255)
        state[2] = (low >> np.uint64(24)) & np.uint64(255)
    state[3] += np.uint64(1)
    state[0] = (low & np.uint64(0x00FFFFFF)) << np.uint64(8)


@jit
def _put(state: U64, out: Bytes, below: int, share: int, total: int) -> None:
    part = state[1] // np.uint64(total)
    state[0] += part * np.uint64(below)
    state[1] = part * np.uint64(share)
    while state[1] < np.uint64(LOWEST):
        state[1] <<= np.uint64(8)
        _push(state, out)


@jit
def _put_plain(state: U64, out: Bytes, value: int, bits: int) -> None:
    while bits > 12:
        bits -= 12
        _put(state, out, (value >> bits) & 4095, 1, 4096)
    if bits:
        _put(state, out, value & ((1 << bits) - 1), 1, 1 << bits)


@jit
def _put_size(state: U64, out: Bytes, counts_B: U32, size: int) -> None:
    bucket, left = _bucket(size)
    below = 0
    for b in range(bucket):
        below += int(counts_B[b])
    _put(state, out, below, int(counts_B[bucket]), int(counts_B[BUCKETS]))
    _learn(counts_B, bucket)
    _put_plain(state, out, size, left)


@jit
def _put_signed(state: U64, out: Bytes, counts_B: U32, value: int) -> None:
    _put_size(state, out, counts_B, abs(value))
    if value:
        _put_plain(state, out, 1 if value < 0 else 0, 1)


@jit
def _learn(counts_B: U32, bucket: int) -> None:
    """The last number is the sum of the others."""
    counts_B[bucket] += np.uint32(MORE)
    counts_B[BUCKETS] += np.uint32(MORE)
    if counts_B[BUCKETS] >= np.uint32(MOST):
        total = np.uint32(0)
        for b in range(BUCKETS):
            counts_B[b] = (counts_B[b] + np.uint32(1)) >> np.uint32(1)
            total += counts_B[b]
        counts_B[BUCKETS] = total


@jit
def _end(state: U64, out: Bytes) -> int:
    """The number in the range with the most zeros at its end, which are left out."""
    high = state[0] + state[1] - np.uint64(1)
    for bits in range(32, -1, -1):
        mark = (high >> np.uint64(bits)) << np.uint64(bits)
        if mark >= state[0]:
            state[0] = mark
            break
    for _ in range(5):
        _push(state, out)
    used = int(state[4]) - 1
    while used and not out[used - 1]:
        used -= 1
    return used


@jit
def _counts(contexts: int) -> Any:
    counts_CB = np.ones((contexts, BUCKETS + 1), np.uint32)
    counts_CB[:, BUCKETS] = np.uint32(BUCKETS)
    return counts_CB


@jit
def _coder() -> Any:
    return np.array([0, 0xFFFFFFFF, 0, 1, 0], np.uint64)


@jit
def _pull(state: U64, data: Bytes) -> None:
    """State: code, range, place. Past the end there are zeros."""
    while state[1] < np.uint64(LOWEST):
        byte = data[state[2]] if state[2] < np.uint64(data.size) else np.uint8(0)
        state[0] = (state[0] << np.uint64(8)) | np.uint64(byte)
        state[1] <<= np.uint64(8)
        state[2] += np.uint64(1)


@jit
def _reader(data: Bytes) -> Any:
    state = np.zeros(3, np.uint64)
    for i in range(4):
        byte = data[i] if i < data.size else np.uint8(0)
        state[0] = (state[0] << np.uint64(8)) | np.uint64(byte)
    state[1], state[2] = np.uint64(0xFFFFFFFF), np.uint64(4)
    return state


@jit
def _plain(state: U64, data: Bytes, bits: int) -> int:
    value, left = 0, bits
    while left:
        some = min(left, 12)
        part = state[1] >> np.uint64(some)
        found = min(state[0] // part, np.uint64((1 << some) - 1))
        state[0] -= found * part
        state[1] = part
        _pull(state, data)
        value = (value << some) | int(found)
        left -= some
    return value


@jit
def _size(state: U64, data: Bytes, counts_B: U32) -> int:
    total = np.uint64(counts_B[BUCKETS])
    part = state[1] // total
    found = min(state[0] // part, total - np.uint64(1))
    bucket, below = 0, np.uint64(0)
    while below + np.uint64(counts_B[bucket]) <= found:
        below += np.uint64(counts_B[bucket])
        bucket += 1
    state[0] -= part * below
    state[1] = part * np.uint64(counts_B[bucket])
    _pull(state, data)
    _learn(counts_B, bucket)
    if bucket < 4:
        return bucket
    e = bucket >> 1
    return ((2 | (bucket & 1)) << (e - 1)) | _plain(state, data, e - 1)


@jit
def _signed(state: U64, data: Bytes, counts_B: U32) -> int:
    value = _size(state, data, counts_B)
    return -value if value and _plain(state, data, 1) else value


@jit
def put_few(where_E: U32, z_E: NDArray[np.uint16], out: Bytes) -> int:
    """Levels that are not 0, folded by zigzag, and where they are; returns bytes written."""
    state, counts_CB, after = _coder(), _counts(2), 0
    for i in range(where_E.size):
        _put_size(state, out, counts_CB[0], int(where_E[i]) - after)
        after = int(where_E[i]) + 1
        z = int(z_E[i])
        _put_signed_of(state, out, counts_CB[1], z)
    return _end(state, out)


@jit
def _put_signed_of(state: U64, out: Bytes, counts_B: U32, z: int) -> None:
    _put_size(state, out, counts_B, (z - 1) >> 1)
    _put_plain(state, out, z & 1, 1)


@jit
def few(data: Bytes, n: int, where_E: U32, z_E: NDArray[np.uint16]) -> bool:
    """The same back; whether all of them are inside of `n` elements."""
    state, counts_CB, at = _reader(data), _counts(2), 0
    for i in range(where_E.size):
        at += _size(state, data, counts_CB[0])
        size = _size(state, data, counts_CB[1])
        if at >= n or size > 8190:
            return False
        where_E[i] = np.uint32(at)
        z_E[i] = np.uint16(2 * (size + 1) - _plain(state, data, 1))
        at += 1
    return True


@jit
def put_factors(scales_M: Bytes, heads_R3: Bytes, left_RM: I8, right_RN: I8, out: Bytes) -> int:
    """Codes of the rows' scales; of each component its shift and the classes, and its numbers."""
    state, counts_CB, last = _coder(), _counts(CLASSES + 1), 0
    for i in range(scales_M.size):
        _put_signed(state, out, counts_CB[CLASSES], int(scales_M[i]) - last)
        last = int(scales_M[i])
    for r in range(heads_R3.shape[0]):
        for k in range(3):
            _put_plain(state, out, int(heads_R3[r, k]), 4)
        for i in range(left_RM.shape[1]):
            _put_signed(state, out, counts_CB[heads_R3[r, 1]], int(left_RM[r, i]))
        for i in range(right_RN.shape[1]):
            _put_signed(state, out, counts_CB[heads_R3[r, 2]], int(right_RN[r, i]))
    return _end(state, out)


@jit
def factors(data: Bytes, scales_M: Bytes, heads_R3: Bytes, left_RM: I8, right_RN: I8) -> bool:
    """The same back; whether every number has its place."""
    state, counts_CB, last, fits = _reader(data), _counts(CLASSES + 1), 0, True
    for i in range(scales_M.size):
        last += _signed(state, data, counts_CB[CLASSES])
        if last < 0 or last > 63:
            return False
        scales_M[i] = np.uint8(last)
    for r in range(heads_R3.shape[0]):
        for k in range(3):
            heads_R3[r, k] = np.uint8(_plain(state, data, 4))
        for i in range(left_RM.shape[1]):
            value = _signed(state, data, counts_CB[heads_R3[r, 1]])
            fits &= abs(value) < 128
            left_RM[r, i] = np.int8(value)
        for i in range(right_RN.shape[1]):
            value = _signed(state, data, counts_CB[heads_R3[r, 2]])
            fits &= abs(value) < 128
            right_RN[r, i] = np.int8(value)
    return fits
