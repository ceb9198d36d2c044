"""The common case in one pass: bf16 models, merged by sum, masked by TALL.

Legend: N = elements of a block, S = tasks, P = ceil(N / 8) packed bytes (LSB first).

The general way writes float32 task vectors for the whole block (4 S N bytes), reads them to merge
and reads them again to mask. Here 1024 elements at a time go all the way, with S task vectors that
stay in the second-level cache; main memory sees only the bits that come in and go out. The same
operations in the same order, so the same result to the last bit; the suite compares them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from taskstore.kernels.bits import packed_size
from taskstore.kernels.jit import jit

Bits = NDArray[np.uint16]
Bytes = NDArray[np.uint8]
F32 = NDArray[np.float32]

_EXPONENT = np.uint32(0x7F800000)
_GATHER = np.uint64(0x0102040810204080)  # eight 0/1 bytes -> one byte, first byte lowest


def sum_tall_bf16(theta_SN: Bits, w0_N: Bits, lam_S: F32) -> tuple[Bits, Bytes, Bits, bool]:
    """W1 (N,), masks (S, P), selected weights (S, N), and whether the merged vector is finite.

    It is not where a task is not; then nothing else of the result means anything.
    """
    tasks, n = theta_SN.shape
    w1_N = np.empty_like(w0_N)
    bits_SP = np.empty((tasks, packed_size(n)), np.uint8)
    chosen_SN = np.empty_like(theta_SN)
    largest = _sum_tall_bf16(theta_SN, w0_N, lam_S, w1_N, bits_SP, chosen_SN)
    return w1_N, bits_SP, chosen_SN, bool(largest != _EXPONENT)


@jit
def _sum_tall_bf16(
    theta_SN: Bits,
    w0_N: Bits,
    lam_S: F32,
    w1_N: Bits,
    bits_SP: Bytes,
    chosen_SN: Bits,
) -> np.uint32:
    """Returns the largest exponent field of the merged vector, as it stands in its bits."""
    tasks, n = theta_SN.shape
    tau_SB = np.empty((tasks, 1024), np.float32)
    theta0 = np.empty(1024, np.float32)
    merged = np.empty(1024, np.float32)
    mask = np.zeros(1024, np.uint8)
    words = mask.view(np.uint64)
    largest = np.uint32(0)
    for start in range(0, n, 1024):
        stop = min(start + 1024, n)
        size = stop - start
        w0, w1 = w0_N[start:stop], w1_N[start:stop]
        for j in range(size):
            theta0[j] = np.uint32(np.uint32(w0[j]) << np.uint32(16)).view(np.float32)
            merged[j] = np.float32(0)
        for s in range(tasks):
            theta, tau = theta_SN[s, start:stop], tau_SB[s]
            for j in range(size):
                value = np.uint32(np.uint32(theta[j]) << np.uint32(16)).view(np.float32)
                step = np.float32(value - theta0[j])
                tau[j] = step
                merged[j] += step
        for j in range(size):
            largest = max(largest, np.float32(merged[j]).view(np.uint32) & _EXPONENT)
            value = np.float32(theta0[j] + merged[j])
            u = np.float32(value).view(np.uint32)
            odd = (u >> np.uint32(16)) & np.uint32(1)
            rounded = np.uint16((u + np.uint32(0x7FFF) + odd) >> np.uint32(16))
            over = (rounded & np.uint16(0x7F80)) == np.uint16(0x7F80)
            bad = over | ((u & _EXPONENT) == _EXPONENT)
            w1[j] = w0[j] if bad else rounded
        for s in range(tasks):
            tau, lam, chosen = tau_SB[s], lam_S[s], chosen_SN[s, start:stop]
            for j in range(size):
                wanted = np.uint8(abs(tau[j]) > lam * abs(merged[j] - tau[j]))
                live = np.uint8(w0[j] != w1[j])
                mask[j] = wanted & live
                chosen[j] = w1[j] if wanted else w0[j]
            for j in range(size, ((size + 7) >> 3) << 3):
                mask[j] = 0
            packed = bits_SP[s, start >> 3 : (stop + 7) >> 3]
            for j in range(packed.size):
                packed[j] = np.uint8((words[j] * _GATHER) >> np.uint64(56))
    return largest
