"""`lsq`: per element, the value that masks can use best, by least squares.

Masks choose between W0 and W0 + v, so an element costs sum_t min(tau_t^2, (tau_t - v)^2). The best
v is two-means with one centre pinned at zero: the mean of the j most extreme values on one side,
with j and the side such that the gain j v^2 is largest. It is found exactly: the T values are
sorted, and all j are tried from both ends. The method is ours, not published. The sum can drown a
task whose vector is short, or add up to what no task wanted; this method does neither
(docs/fidelity.md has accuracies).

A network sorts the values (Batcher's merge exchange, Knuth 5.2.2 M), 256 elements at a time, with a
vector minimum and maximum per comparison. Arithmetic is float32. Sums start at the most extreme
value, so the result has one value on every machine.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from taskstore.kernels.jit import jit
from taskstore.merging.methods.api import F32, Info, Method, Vectors

BLOCK = 256  # elements: all tasks' stay in the first-level cache
Pairs = NDArray[np.int64]


class Lsq(Method):
    INFO = Info(
        "Least squares",
        "v = argmin sum_t min(tau_t^2, (tau_t - v)^2), per element",
        "taskstore, docs/fidelity.md",
    )
    one_sided = True

    def merge(self, block: Vectors) -> F32:
        return least_squares(block.tau_SN, network(block.tau_SN.shape[0]))


def network(n: int) -> Pairs:
    """Comparisons (i, j), i < j, that sort n values when done in order; int64 (C, 2)."""
    pairs = []
    p = 1
    while p < n:
        k = p
        while k >= 1:
            for j in range(k % p, n - k, 2 * k):
                for i in range(min(k, n - j - k)):
                    if (i + j) // (2 * p) == (i + j + k) // (2 * p):
                        pairs.append((i + j, i + j + k))
            k //= 2
        p *= 2
    return np.array(pairs, np.int64).reshape(-1, 2)


@jit
def least_squares(tau_SN: F32, pairs: Pairs) -> F32:
    """Sort a block downwards, then try every count from both ends.

    Choices are made by XOR on bits: a choice between two floats becomes a masked store, which is
    three times slower. The keys are integers in the order of the floats. Gains are not negative, so
    their bits have that order as they are.
    """
    tasks, n = tau_SN.shape
    merged_N, keys_SB = np.empty(n, np.float32), np.empty((tasks, BLOCK), np.int32)
    total, mean = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    gain = np.empty(BLOCK, np.float32)
    best, value = np.empty(BLOCK, np.int32), np.empty(BLOCK, np.int32)
    mean_bits, gain_bits = mean.view(np.int32), gain.view(np.int32)
    for start in range(0, n, BLOCK):
        size = min(BLOCK, n - start)
        for s in range(tasks):
            bits = tau_SN[s, start : start + size].view(np.int32)
            keys = keys_SB[s]
            for i in range(size):
                keys[i] = bits[i] ^ ((bits[i] >> np.int32(31)) & np.int32(0x7FFFFFFF))
        for c in range(pairs.shape[0]):
            high, low = keys_SB[pairs[c, 0]], keys_SB[pairs[c, 1]]
            for i in range(size):
                a, b = high[i], low[i]
                swapped = (a ^ b) & (np.int32(0) - np.int32(a < b))
                high[i] = a ^ swapped
                low[i] = b ^ swapped
        for s in range(tasks):
            keys = keys_SB[s]
            for i in range(size):
                keys[i] = keys[i] ^ ((keys[i] >> np.int32(31)) & np.int32(0x7FFFFFFF))
        best[:] = np.int32(0)
        value[:] = np.int32(0)
        for side in range(2):
            sign = np.float32(1 if side == 0 else -1)
            total[:] = np.float32(0)
            for j in range(tasks):
                row = keys_SB[j if side == 0 else tasks - 1 - j].view(np.float32)
                share = np.float32(1) / np.float32(j + 1)
                for i in range(size):
                    t = total[i] + max(row[i] * sign, np.float32(0))  # the other side adds nothing
                    total[i] = t
                    mean[i] = sign * (t * share)
                    gain[i] = t * (t * share)
                for i in range(size):
                    wins = np.int32(0) - np.int32(gain_bits[i] > best[i])
                    best[i] = best[i] ^ ((best[i] ^ gain_bits[i]) & wins)
                    value[i] = value[i] ^ ((value[i] ^ mean_bits[i]) & wins)
        merged_N[start : start + size] = value.view(np.float32)[:size]
    return merged_N
