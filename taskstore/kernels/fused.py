"""Merges and masks in one pass in the common case: bf16 models, merge `sum`, masks by TALL.

Legend: N = elements of a block, S = tasks, P = ceil(N / 8) packed bytes (LSB first), B = 1024.

The general way writes float32 task vectors for the whole block (4 S N bytes), reads them to merge
and reads them again to mask. Here B elements at a time are merged and masked, with S task vectors
that stay in the second-level cache. The operations and their order are the same, and so is the
result, to the last bit; the suite compares them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from taskstore.kernels.bits import packed_size
from taskstore.kernels.floats import EXPONENT, largest_exponent, rounded, widen_bf16, widened
from taskstore.kernels.jit import inlined, jit
from taskstore.kernels.tall import tall_block

Bits = NDArray[np.uint16]
Bytes = NDArray[np.uint8]
F32 = NDArray[np.float32]

_EXPONENT = EXPONENT["F32"]


def sum_tall_bf16(theta_SN: Bits, w0_N: Bits, lam_S: F32) -> tuple[Bits, Bytes, Bits, bool]:
    """W1 (N,), masks (S, P), selected weights (S, N), and whether the merged vector is finite.

    Where a task is not finite, neither is the merged vector, and the rest of the result is void.
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
    theta0_B, merged_B = np.empty(1024, np.float32), np.empty(1024, np.float32)
    mask = np.zeros(1024, np.uint8)
    largest = np.uint32(0)
    for start in range(0, n, 1024):
        block = slice(start, min(start + 1024, n))
        size = block.stop - start
        w0, w1, theta0, merged = w0_N[block], w1_N[block], theta0_B[:size], merged_B[:size]
        widen_bf16(w0, theta0)
        merged[:] = np.float32(0)
        for s in range(tasks):
            theta, tau = theta_SN[s, block], tau_SB[s, :size]
            for j in range(size):
                tau[j] = np.float32(widened(theta[j]) - theta0[j])
                merged[j] += tau[j]
        largest = max(largest, largest_exponent(merged.view(np.uint32), _EXPONENT))
        add_bf16(theta0, merged, w0, w1)
        for s in range(tasks):
            tau, packed = tau_SB[s, :size], bits_SP[s, start >> 3 : (block.stop + 7) >> 3]
            tall_block(tau, merged, w0, w1, lam_S[s], False, mask, packed, chosen_SN[s, block])
    return largest


@inlined
def add_bf16(theta0_N: F32, tau_N: F32, w0_N: Bits, w1_N: Bits) -> None:
    for i in range(w0_N.size):
        value = np.float32(theta0_N[i] + tau_N[i])
        u = np.float32(value).view(np.uint32)
        w1 = rounded(u)
        bad = ((w1 & np.uint16(0x7F80)) == np.uint16(0x7F80)) | ((u & _EXPONENT) == _EXPONENT)
        w1_N[i] = w0_N[i] if bad else w1
