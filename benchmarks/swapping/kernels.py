"""The kernel of a swap alone, one thread: compiled, in torch, and in numpy.

Two random masks and 16-bit weights that are all to be blended, so half of them change: the most
that a swap has to do. All three start from the same weights and must end with the same.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.swapping.clock import Way, in_turn
from taskstore.kernels import cpu, reference

ELEMENTS = 1 << 24
Bytes = NDArray[np.uint8]
Bits = NDArray[np.uint16]


def plain_numpy(a_P: Bytes, b_P: Bytes, d_N: Bits, w_N: Bits) -> None:
    """What one would write: spread the mask to one byte each, choose, blend."""
    changed_N = np.unpackbits(a_P ^ b_P, count=w_N.size, bitorder="little").view(bool)
    np.bitwise_xor(w_N, np.where(changed_N, d_N, d_N.dtype.type(0)), out=w_N)


def measure(repeat: int) -> dict[str, list[float]]:
    """Seconds of one call; raises ValueError where they disagree."""
    torch.set_num_threads(1)
    random = np.random.default_rng(2024)
    a_P, b_P = (random.integers(0, 256, ELEMENTS // 8, np.uint8) for _ in range(2))
    d_N, w_N = (random.integers(0, 1 << 16, ELEMENTS, np.uint16) for _ in range(2))
    compiled_N, torch_N, numpy_N = w_N.copy(), w_N.copy(), w_N.copy()
    tensors = [torch.from_numpy(x) for x in (a_P, b_P, d_N.view(np.int16), torch_N.view(np.int16))]
    found = in_turn(
        [
            Way("native", lambda: cpu.swap(a_P, b_P, d_N, compiled_N)),
            Way("torch", lambda: reference.swap(*tensors)),
            Way("numpy", lambda: plain_numpy(a_P, b_P, d_N, numpy_N)),
        ],
        repeat,
        "cpu",
    )
    if not (np.array_equal(compiled_N, torch_N) and np.array_equal(compiled_N, numpy_N)):
        raise ValueError("the kernels do not agree")
    return found
