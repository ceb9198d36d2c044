"""Does the kernels' arithmetic in plain torch: slow, obvious, on any device; the suite's oracle.

Legend: N = elements, P = ceil(N / 8) packed bytes (LSB first); weights are float tensors of the
checkpoint's dtype, or its integer view where bits are swapped.
"""

from __future__ import annotations

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
