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
from taskstore.kernels.factored.low_rank import LowRank
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
    radix: int
    low_rank: tuple[Tensor, Tensor, Tensor, Tensor] | None = None

    def values(self, device: torch.device) -> Tensor:
        """v, float32 (n,), on a device."""
        symbols, table_256K = self.symbols.to(device), self.table_256K.to(device)
        v_N = table_256K[symbols.int()].view(-1)[: self.n]
        v_N[self.where_E.to(device)] = self.points_E.to(device)
        rows_N = torch.arange(self.first, self.first + self.n, device=device) // self.columns
        v_N = v_N * self.steps_R.to(device)[rows_N]
        if self.low_rank is not None:
            v_N += self._product(device).view(-1)[self.first : self.first + self.n]
        return v_N

    def _product(self, device: torch.device) -> Tensor:
        """The low-rank part of whole rows, float32 (R, columns).

        All partial sums are whole numbers that float32 holds, and the factors ones that bfloat16
        does: no order, fusion or faster mode of a device changes a bit.
        """
        assert self.low_rank is not None
        left_KR, right_KN, shifts_K, scales_R = (t.to(device) for t in self.low_rank)
        right_KN = torch.bitwise_left_shift(right_KN.int(), shifts_K[:, None]).float()
        return (left_KR.float().T @ right_KN + 0.0) * scales_R[:, None]


class TorchVectors:
    """Tensors of any device. A chunk's float32 values lie in memory meanwhile."""

    def __init__(self, device: torch.device) -> None:
        kernel, self.native = kernel_for(device)
        self.swap = kernel if device.type == "cuda" else reference.swap
        self._shared: tuple[Any, Tensor] | None = None  # a factor that all chunks of a tensor have

    def place(self, vector: Quantised, where: torch.device) -> TorchVector:
        def tensor(array: Any) -> Tensor:
            return torch.from_numpy(np.array(array)).to(where)

        part = vector.low_rank
        return TorchVector(
            vector.n,
            tensor(vector.symbols),
            tensor(vector.table()),
            tensor(vector.rows.steps()),
            tensor(vector.where_E.astype(np.int64)),
            tensor(vector.points.of(vector.z_E)),
            vector.rows.columns,
            vector.rows.first,
            vector.radix,
            None if part is None else self._factors(part, where),
        )

    def _factors(self, part: LowRank, where: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        right, shared = part.right_RN, self._shared
        if shared is None or shared[0] is not right or shared[1].device != where:
            self._shared = shared = right, torch.from_numpy(right).to(where)
        left, shifts, scales = (
            torch.from_numpy(np.array(array)).to(where)
            for array in (part.left_RM, part.shifts_R.astype(np.int32), part.scales())
        )
        return left, shared[1], shifts, scales

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
