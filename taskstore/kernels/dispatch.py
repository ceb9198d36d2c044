"""Chooses the swap kernel of a device, and the view of memory that it takes.

The CPU takes the compiled one (measured against torch and numpy in benchmarks/swap.py), CUDA
takes Triton's, and any other device plain torch.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from taskstore.kernels import cpu, reference
from taskstore.kernels.torch_dtypes import INTEGERS

Swap = Callable[[Any, Any, Any, Any], None]
Native = Callable[[Tensor, int], Any]  # uint8 memory, element size -> what the kernel takes


def kernel_for(device: torch.device) -> tuple[Swap, Native]:
    """The swap(a, b, d, w) of a device, and the view of memory that it works on."""
    if device.type == "cpu":
        return cpu.swap, lambda memory, size: memory.numpy().view(f"<u{size}")
    if device.type == "cuda":
        try:
            from taskstore.kernels import triton
        except ImportError:
            logging.getLogger("taskstore").warning("no triton: swaps run in plain torch, slower")
        else:
            return triton.swap, _view
    return reference.swap, _view


def _view(memory: Tensor, size: int) -> Tensor:
    return memory.view(INTEGERS[size])
