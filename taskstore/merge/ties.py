"""`ties`: trim, elect signs, disjoint sum (Yadav et al., arXiv 2306.01708; sum as TALL uses it).

    1. trim      per task keep |tau| >= the k-th smallest magnitude of its whole flat vector,
                 k = d - int(d K), K = `density` (0.2); ties at the threshold are all kept
    2. elect     gamma = sign of the sum of the trimmed vectors; where that is 0, the sign of the
                 sum of all signs of the model
    3. merge     sum of the trimmed values whose sign is gamma (a negative one where gamma is 0)

Checked against the authors' code, which takes a mean in step 3; TALL-masks are published with the
sum. The threshold is exact and out of core: two passes count the magnitudes' upper and lower 16
bits, a third the signs. Nothing of the model's size is held.

Legend: S = tasks that have these elements, T = all tasks, N = elements.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from taskstore._jit import jit

if TYPE_CHECKING:
    from taskstore.merge import Scan

F32 = NDArray[np.float32]
Rows = NDArray[np.intp]
Counts = NDArray[np.int64]


class Ties:
    one_sided = False
    passes = 3

    def __init__(self, density: float = 0.2) -> None:
        self.options = {"density": density}

    def fit(self, scan: Scan) -> None:
        """Three passes: upper halves, lower halves within the threshold's bin, signs."""
        elements = scan.elements()
        rank_T = [max(1, d - int(d * self.options["density"])) for d in elements]
        upper_T = np.zeros(scan.tasks, np.uint32)
        counts = _count(scan, upper_T, low=False)
        inside_T = []
        for t in range(scan.tasks):
            below, upper_T[t] = _bin_of(counts[t], rank_T[t])
            inside_T.append(rank_T[t] - below)
        counts = _count(scan, upper_T, low=True)
        lower_T = np.array([_bin_of(counts[t], inside_T[t])[1] for t in range(scan.tasks)])
        self.threshold_T = ((upper_T << np.uint32(16)) | lower_T.astype(np.uint32)).view(np.float32)
        self.majority = np.float32(
            np.sign(sum(scan.blocks(lambda tau, rows: signs(tau, self.threshold_T[rows]))))
        )

    def merge(self, tau_SN: F32, rows: Rows) -> F32:
        merged_N = np.empty(tau_SN.shape[1], np.float32)
        disjoint_sum(tau_SN, self.threshold_T[rows], self.majority, merged_N)
        return merged_N


def _count(scan: Scan, upper_T: NDArray[np.uint32], *, low: bool) -> Counts:
    """int64 (T, 65536): how often each upper half occurs, or each lower half below `upper_T`."""
    total = np.zeros((scan.tasks, 1 << 16), np.int64)

    def one(tau_SN: F32, rows: Rows) -> tuple[Rows, Counts]:
        counts = np.zeros((rows.size, 1 << 16), np.int64)
        histogram(tau_SN.view(np.uint32), upper_T[rows], low, counts)
        return rows, counts

    for rows, counts in scan.blocks(one):
        total[rows] += counts
    return total


def _bin_of(counts: Counts, rank: int) -> tuple[int, int]:
    """Elements in lower bins, and the bin that holds the element of that rank (from 1)."""
    reached = counts.cumsum()
    found = int(np.searchsorted(reached, rank))
    found = min(found, counts.size - 1)
    return int(reached[found] - counts[found]), found


@jit
def histogram(
    bits_SN: NDArray[np.uint32], upper_S: NDArray[np.uint32], low: bool, counts: Counts
) -> None:
    """Count upper halves of |tau|'s bits, or lower halves where the upper one is `upper_S`."""
    for s in range(bits_SN.shape[0]):
        for i in range(bits_SN.shape[1]):
            magnitude = bits_SN[s, i] & np.uint32(0x7FFFFFFF)
            high = magnitude >> np.uint32(16)
            if not low:
                counts[s, high] += 1
            elif high == upper_S[s]:
                counts[s, magnitude & np.uint32(0xFFFF)] += 1


@jit
def signs(tau_SN: F32, threshold_S: F32) -> int:
    """Sum over elements of the sign of the sum of trimmed values."""
    total = 0
    for i in range(tau_SN.shape[1]):
        value = np.float32(0)
        for s in range(tau_SN.shape[0]):
            if abs(tau_SN[s, i]) >= threshold_S[s]:
                value += tau_SN[s, i]
        if value > 0:
            total += 1
        elif value < 0:
            total -= 1
    return total


@jit
def disjoint_sum(tau_SN: F32, threshold_S: F32, majority: np.float32, merged_N: F32) -> None:
    """Trim, elect and add up, per element."""
    for i in range(tau_SN.shape[1]):
        gamma = np.float32(0)
        for s in range(tau_SN.shape[0]):
            if abs(tau_SN[s, i]) >= threshold_S[s]:
                gamma += tau_SN[s, i]
        if gamma == 0:
            gamma = majority
        value = np.float32(0)
        for s in range(tau_SN.shape[0]):
            tau = tau_SN[s, i]
            if abs(tau) >= threshold_S[s] and ((tau > 0) == (gamma > 0)):
                value += tau
        merged_N[i] = value
