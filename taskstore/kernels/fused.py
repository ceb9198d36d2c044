"""Merges and masks in one pass in the common case: bf16 models, merge `sum`, masks by TALL.

Legend: N = elements of a block, S = tasks, P = ceil(N / 8) packed bytes (LSB first), B = 1024.

The general way writes float32 task vectors for the whole block (4 S N bytes), reads them to merge
and reads them again to mask. Here B elements at a time are merged and masked, with S task vectors
that stay in the second-level cache. The operations and their order are the same, and so is the
result, to the last bit; the suite compares them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from taskstore.kernels.bits import packed_size
from taskstore.kernels.floats import EXPONENT
from taskstore.kernels.products import had_of_bf16
from taskstore.native import fused as loops

Bits = NDArray[np.uint16]
Bytes = NDArray[np.uint8]
F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


@dataclass(frozen=True)
class Masked:
    """What the pass finds.

    w1_N       merged weights
    bits_SP    a packed mask per task, and ones_S how many bits are set in it
    chosen_SN  what each mask selects of W1 and W0
    differs_S  whether a task has any weight that is not the base's
    sums_S4    the four sums of each task (kernels/products.py)
    """

    w1_N: Bits
    bits_SP: Bytes
    chosen_SN: Bits
    ones_S: NDArray[np.int64]
    differs_S: NDArray[np.bool_]
    sums_S4: F64


def sum_tall_bf16(theta_SN: Bits, w0_N: Bits, lam_S: F32, one_in: int = 1) -> Masked | None:
    """Merge and mask the tasks' weights (S, N) over the base's (N,).

    The sums are of one strip of weights in `one_in`. None where the merged vector is not finite, as
    it is where the base or a task is not.
    """
    tasks, n = theta_SN.shape
    found = Masked(
        np.empty_like(w0_N),
        np.empty((tasks, packed_size(n)), np.uint8),
        np.empty_like(theta_SN),
        np.empty(tasks, np.int64),
        np.empty(tasks, np.bool_),
        np.empty((tasks, 4)),
    )
    if loops.sum_tall_bf16(theta_SN, w0_N, lam_S, one_in, *vars(found).values()) == int(
        EXPONENT["F32"]
    ):
        return None
    for s, sums in enumerate(found.sums_S4):
        found.sums_S4[s] = had_of_bf16(sums, w0_N, theta_SN[s], found.chosen_SN[s])
    return found
