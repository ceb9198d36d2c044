"""Adds quantised vectors to weights on each device, W = round(W0 + v): what tier `rest` swaps with.

The CPU and torch take the same steps: one float32 addition, one rounding to the weights' dtype, W0
where that is not finite. So they give the same bits; the suite compares them. v is exact in
float32, so it does not matter whether a device fuses the product into the addition.

Legend: N = elements of a chunk.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from taskstore.kernels import add_quantised, reference
from taskstore.kernels.dispatch import kernel_for
from taskstore.kernels.quantise import Quantised
from taskstore.kernels.torch_dtypes import TORCH


class DeviceOps(Protocol):
    """What a swap with vectors needs of a device; arrays are those of the device's swap kernel."""

    swap: Callable[[Any, Any, Any, Any], None]
    native: Callable[[Tensor, int], Any]

    def place(self, vector: Quantised, where: torch.device) -> Any:
        """A vector as it is kept in memory there."""

    def clone(self, w_N: Any) -> Any:
        """The same bits in other memory."""

    def copy(self, source_N: Any, w_N: Any) -> None:
        """Into the live weights."""

    def select(self, mask_P: Any, d_N: Any, w_N: Any) -> None:
        """W ^= D & m, in place."""

    def add(self, vector: Any, below_N: Any, w_N: Any, dtype: str) -> None:
        """round(below + v) into the live weights."""


class HostVectors:
    """numpy arrays and compiled loops."""

    def __init__(self) -> None:
        self.swap, self.native = kernel_for(torch.device("cpu"))

    def place(self, vector: Quantised, where: torch.device) -> Quantised:
        return vector

    def clone(self, w_N: Any) -> Any:
        return w_N.copy()

    def copy(self, source_N: Any, w_N: Any) -> None:
        np.copyto(w_N, source_N)

    def select(self, mask_P: Any, d_N: Any, w_N: Any) -> None:
        self.swap(np.zeros_like(mask_P), mask_P, d_N, w_N)

    def add(self, vector: Quantised, below_N: Any, w_N: Any, dtype: str) -> None:
        add_quantised.add(vector, below_N, w_N, dtype)


@dataclass(frozen=True)
class TorchVector:
    """`Quantised` as tensors: symbols, what a byte of them stands for, steps, escapes."""

    n: int
    symbols: Tensor
    table_256K: Tensor
    steps_R: Tensor
    where_E: Tensor
    points_E: Tensor
    columns: int
    first: int

    def values(self, device: torch.device) -> Tensor:
        """v, float32 (n,), on a device."""
        symbols, table_256K = self.symbols.to(device), self.table_256K.to(device)
        v_N = table_256K[symbols.int()].view(-1)[: self.n]
        v_N[self.where_E.to(device)] = self.points_E.to(device)
        rows_N = torch.arange(self.first, self.first + self.n, device=device) // self.columns
        return v_N * self.steps_R.to(device)[rows_N]


class TorchVectors:
    """Tensors of any device. A chunk's float32 values lie in memory meanwhile."""

    def __init__(self, device: torch.device) -> None:
        kernel, self.native = kernel_for(device)
        self.swap = kernel if device.type == "cuda" else reference.swap

    def place(self, vector: Quantised, where: torch.device) -> TorchVector:
        def tensor(array: Any) -> Tensor:
            return torch.from_numpy(np.array(array)).to(where)

        return TorchVector(
            vector.n,
            tensor(vector.symbols),
            tensor(vector.table()),
            tensor(vector.rows.steps()),
            tensor(vector.where_E.astype(np.int64)),
            tensor(vector.points.of(vector.z_E)),
            vector.rows.columns,
            vector.rows.first,
        )

    def clone(self, w_N: Tensor) -> Tensor:
        return w_N.clone()

    def copy(self, source_N: Tensor, w_N: Tensor) -> None:
        w_N.copy_(source_N)

    def select(self, mask_P: Tensor, d_N: Tensor, w_N: Tensor) -> None:
        mask_P = mask_P.to(w_N.device)
        self.swap(torch.zeros_like(mask_P), mask_P, d_N, w_N)

    def add(self, vector: TorchVector, below_N: Tensor, w_N: Tensor, dtype: str) -> None:
        float_N = below_N.view(TORCH[dtype])
        w_N.copy_(reference.add(float_N, vector.values(w_N.device)).view(w_N.dtype))


def vectors_for(device: torch.device) -> DeviceOps:
    return HostVectors() if device.type == "cpu" else TorchVectors(device)
