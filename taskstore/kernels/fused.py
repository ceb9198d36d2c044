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
from taskstore.kernels.floats import EXPONENT
from taskstore.native import fused as loops

Bits = NDArray[np.uint16]
Bytes = NDArray[np.uint8]
F32 = NDArray[np.float32]


def sum_tall_bf16(theta_SN: Bits, w0_N: Bits, lam_S: F32) -> tuple[Bits, Bytes, Bits, bool]:
    """W1 (N,), masks (S, P), selected weights (S, N), and whether the merged vector is finite.

    Where a task is not finite, neither is the merged vector, and the rest of the result is void.
    """
    tasks, n = theta_SN.shape
    w1_N = np.empty_like(w0_N)
    bits_SP = np.empty((tasks, packed_size(n)), np.uint8)
    chosen_SN = np.empty_like(theta_SN)
    largest = loops.sum_tall_bf16(theta_SN, w0_N, lam_S, w1_N, bits_SP, chosen_SN)
    return w1_N, bits_SP, chosen_SN, largest != int(EXPONENT["F32"])
