"""`tall`: the TALL-mask (Wang et al., arXiv 2405.07813, equation 5).

    m_t = |tau_t| > lambda_t |tau_MTL - tau_t|  and  W0 != W1

`one_sided` adds a condition: tau_t has the sign of tau_MTL. A weight that the multi-task model
moves the other way is then never taken, which is what a mask over the merge `lsq` wants (ours, not
published). For lambda <= 1 it is the same as tau_t sgn(tau_MTL) > theta |tau_MTL| with
theta = lambda / (1 + lambda).

The comparison is strict, where the paper writes >=, so that a tensor that a task left alone has an
empty mask. The second condition clears bits whose choice cannot matter; they would cost bytes and
be counted as agreement. tau_t is untrimmed, whatever the merge did. All is float32; lambda is 0.2
to 0.6 in the paper, per task.

Legend: N = elements of a chunk, P = ceil(N / 8) packed bytes (LSB first), U = the dtype's
unsigned integer view (uint16 or uint32). The mask is made in blocks of 1024 elements that stay in
the first-level cache, where eight 0/1 bytes become one packed byte by a multiplication.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskstore.kernels.bits import packed_size
from taskstore.native import tall as loops

F32 = NDArray[np.float32]
U = NDArray[Any]
Bytes = NDArray[np.uint8]


def tall(
    tau_N: F32, merged_N: F32, w0_N: U, w1_N: U, lam: float, one_sided: bool = False
) -> tuple[Bytes, U]:
    """TALL-mask of one task, packed (P,), and the weights it selects, (N,).

    float32 (N,) twice, bits (N,) twice -> uint8 (P,), bits (N,).
    """
    bits_P = np.zeros(packed_size(tau_N.size), np.uint8)
    chosen_N = np.empty_like(w0_N)
    loops.tall(tau_N, merged_N, w0_N, w1_N, lam, one_sided, bits_P, chosen_N)
    return bits_P, chosen_N
