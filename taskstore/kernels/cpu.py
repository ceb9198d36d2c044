"""Does the arithmetic of packing, rebuilding and swapping on the CPU, in one pass over memory.

Legend: N = elements of a chunk, P = ceil(N / 8) packed bytes (LSB first), U = the dtype's unsigned
integer view (uint16 or uint32). Masks are spread to bytes, eight bits by one multiplication, in
blocks of 1024 elements that stay in the first-level cache.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskstore.kernels.floats import EXPONENT, all_finite, from_float32, to_float32
from taskstore.native import cpu as loops

F32 = NDArray[np.float32]
U = NDArray[Any]
Bytes = NDArray[np.uint8]


def task_vector(theta_N: U, dtype: str, theta0_N: F32, tau_N: F32) -> bool:
    """tau = theta_t - theta_0 in float32, into `tau_N`; theta as bits of `dtype`.

    0 where both are NaN or the same Inf, as they are or once theta_0 is cast to `dtype`. False
    where tau is not finite.
    """
    if dtype == "BF16":
        finite = loops.subtract_bf16(theta_N, theta0_N, tau_N) != EXPONENT["F32"]
    else:
        with np.errstate(over="ignore", invalid="ignore"):
            np.subtract(to_float32(theta_N, dtype), theta0_N, out=tau_N)
        finite = all_finite(tau_N.view(np.uint32), "F32")
    if finite:
        return True
    values_N = to_float32(theta_N, dtype)
    same_N = (values_N == theta0_N) | (np.isnan(values_N) & np.isnan(theta0_N))
    tau_N[same_N | (theta_N == from_float32(theta0_N, dtype))] = 0
    return all_finite(tau_N.view(np.uint32), "F32")


def task_vector_of(theta_N: U, dtype: str, w0_N: U, base: str) -> tuple[F32, F32]:
    """Return theta_0 and tau, float32 (N,), of bits of `dtype` over the base's of dtype `base`."""
    theta0_N = to_float32(w0_N, base)
    tau_N = np.empty(theta0_N.size, np.float32)
    task_vector(theta_N, dtype, theta0_N, tau_N)
    return theta0_N, tau_N


def add(theta0_N: F32, tau_N: F32, w0_N: U, dtype: str) -> U:
    """W1 = round(theta_0 + tau) as bits of `dtype`; W0 where that is not finite."""
    if dtype == "BF16":
        w1_N = np.empty_like(w0_N)
        loops.add_bf16(theta0_N, tau_N, w0_N, w1_N)
        return w1_N
    with np.errstate(over="ignore", invalid="ignore"):
        bits_N = from_float32(theta0_N + tau_N, dtype)
    exponent = EXPONENT[dtype]
    return np.where((bits_N & exponent) == exponent, w0_N, bits_N)


def select(bits_P: Bytes, w0_N: U, w1_N: U) -> U:
    """where(mask, W1, W0) on bit patterns, (N,)."""
    chosen_N = np.empty_like(w0_N)
    loops.select(bits_P, w0_N, w1_N, chosen_N)
    return chosen_N


def cast(bits_N: U, source: str, target: str) -> U:
    """Bits of one float dtype -> bits of another, through float32, round to nearest even."""
    return bits_N if source == target else from_float32(to_float32(bits_N, source), target)


def swap(a_P: Bytes, b_P: Bytes, d_N: U, w_N: U) -> None:
    """W ^= D & (m_a ^ m_b) in place, (N,); 1024 weights with equal masks stay untouched."""
    loops.swap(a_P, b_P, d_N, w_N)


def differ(a_P: Bytes, b_P: Bytes) -> bool:
    """Whether two packed masks are not the same; stops at the first kilobyte that differs."""
    return loops.differ(a_P, b_P)
