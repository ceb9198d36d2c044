"""Does the kernels' arithmetic in plain torch: slow, obvious, on any device; the suite's oracle.

Legend: N = elements, P = ceil(N / 8) packed bytes (LSB first); weights are float tensors of the
checkpoint's dtype, or its integer view where bits are swapped.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from taskstore.kernels.torch_dtypes import INTEGERS


def task_vector(theta_N: Tensor, theta0_N: Tensor) -> Tensor:
    """theta_t - theta_0, float32 (N,)."""
    return theta_N.float() - theta0_N.float()


def add(theta0_N: Tensor, tau_N: Tensor) -> Tensor:
    """W1 = round(theta_0 + tau) in theta_0's dtype; theta_0 where that is not finite."""
    w1_N = (theta0_N.float() + tau_N).to(theta0_N.dtype)
    return torch.where(torch.isfinite(w1_N), w1_N, theta0_N)


def differs(w0_N: Tensor, w1_N: Tensor) -> Tensor:
    """bool (N,): D != 0, compared as bits, so that -0.0 and 0.0 differ."""
    view = INTEGERS[w0_N.element_size()]
    return w0_N.view(view) != w1_N.view(view)


def tall(tau_N: Tensor, merged_N: Tensor, w0_N: Tensor, w1_N: Tensor, lam: float) -> Tensor:
    """bool (N,): |tau| > lambda |merged - tau| and D != 0 (arXiv 2405.07813, eq. 5, strict)."""
    rest_N = (merged_N - tau_N).abs() * torch.tensor(lam, dtype=torch.float32)
    return (tau_N.abs() > rest_N) & differs(w0_N, w1_N)


def select(mask_N: Tensor, w0_N: Tensor, w1_N: Tensor) -> Tensor:
    """where(mask, W1, W0), same dtype."""
    return torch.where(mask_N, w1_N, w0_N)


def unpack(bits_P: Tensor, n: int) -> Tensor:
    """uint8 (P,) -> bool (n,); bit i is byte i // 8, LSB first."""
    lanes_8 = torch.arange(8, dtype=torch.uint8, device=bits_P.device)
    return ((bits_P.unsqueeze(1) >> lanes_8) & 1).bool().view(-1)[:n]


def swap(a_P: Tensor, b_P: Tensor, d_N: Tensor, w_N: Tensor) -> None:
    """W ^= D & (m_a ^ m_b) in place; D and W are int16 or int32 views, (N,)."""
    changed_N = unpack(a_P ^ b_P, w_N.numel())
    w_N ^= torch.where(changed_N, d_N, 0)


def rans(
    states: Sequence[int],
    words: Sequence[int],
    contexts: Sequence[int],
    shares: Sequence[Sequence[int]],
) -> list[int] | None:
    """Bytes out of an entropy coder's states and words; None where it does not end empty.

    shares[c][s] of 2,048 is how often byte s occurs in context c.
    """
    lanes, found, at = [*states], list[int](), 0
    for i, context in enumerate(contexts):
        x, begin, symbol = lanes[i % len(lanes)], 0, 0
        while begin + shares[context][symbol] <= x % 2048:
            begin += shares[context][symbol]
            symbol += 1
        x = shares[context][symbol] * (x // 2048) + x % 2048 - begin
        if x < 1 << 16:
            if at == len(words):
                return None
            x, at = (x << 16) + words[at], at + 1
        lanes[i % len(lanes)] = x
        found.append(symbol)
    return found if at == len(words) and set(lanes) == {1 << 16} else None
