"""The same arithmetic in plain torch: slow, obvious, on any device. The oracle of the suite.

Legend: N = elements, T = tasks; weights are float tensors of the checkpoint's dtype.
"""

from __future__ import annotations

import torch
from torch import Tensor

_BITS = {torch.bfloat16: torch.int16, torch.float16: torch.int16, torch.float32: torch.int32}


def task_vector(theta_N: Tensor, theta0_N: Tensor) -> Tensor:
    """theta_t - theta_0, float32 (N,)."""
    return theta_N.float() - theta0_N.float()


def add(theta0_N: Tensor, tau_N: Tensor) -> Tensor:
    """W1 = round(theta_0 + tau) in theta_0's dtype; theta_0 where that is not finite."""
    w1_N = (theta0_N.float() + tau_N).to(theta0_N.dtype)
    return torch.where(torch.isfinite(w1_N), w1_N, theta0_N)


def differs(w0_N: Tensor, w1_N: Tensor) -> Tensor:
    """bool (N,): D != 0, compared as bits, so that -0.0 and 0.0 differ."""
    view = _BITS[w0_N.dtype]
    return w0_N.view(view) != w1_N.view(view)


def tall(tau_N: Tensor, merged_N: Tensor, w0_N: Tensor, w1_N: Tensor, lam: float) -> Tensor:
    """bool (N,): |tau| > lambda |merged - tau| and D != 0 (arXiv 2405.07813, eq. 5, strict)."""
    rest_N = (merged_N - tau_N).abs() * torch.tensor(lam, dtype=torch.float32)
    return (tau_N.abs() > rest_N) & differs(w0_N, w1_N)


def select(mask_N: Tensor, w0_N: Tensor, w1_N: Tensor) -> Tensor:
    """where(mask, W1, W0), same dtype."""
    return torch.where(mask_N, w1_N, w0_N)
