"""What layers compute in a mixed step on a GPU: `layers`, over Triton's kernels.

vLLM's linear layers, heads and embeddings compute by their `quant_method` there, so it is replaced.
All that a kernel reads lies in memory that stays: nothing waits for the device. No card has run it:
the same code runs in Triton's interpreter in the tests.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from taskstore.kernels.mixed.device_matrix import DeviceMatrix, Rows
from taskstore.kernels.mixed.matrix import BASE


def matrix_like(rows: int, columns: int, like: Tensor) -> DeviceMatrix:
    """A matrix without segments, of the dtype and device of a tensor."""
    return DeviceMatrix(rows, columns, like.dtype, like.device)


class DeviceStep:
    """The rows of the step that is computed; one for all layers of a model."""

    def __init__(self, most: int, device: torch.device) -> None:
        """`most` rows of activations."""
        self.rows = Rows(most, device)
        self.slots_M = self.rows.slots_M

    def show(self, tasks_M: NDArray[np.int32]) -> None:
        """Begin with rows of these tasks, by number."""
        self.rows.show(tasks_M)
        self.slots_M = self.rows.slots_M


class DeviceVectors:
    """A norm's or a bias's weights of the base and all tasks, float32; slot 0 is the base's."""

    def __init__(self, matrix: DeviceMatrix) -> None:
        self._matrix = matrix
        self.table_SN = torch.empty(0, matrix.rows, device=matrix.device)
        self.learn(BASE)

    def learn(self, task: int) -> None:
        """Make a task's copy, by its number."""
        slot, every = task - BASE, torch.arange(self._matrix.rows, device=self._matrix.device)
        slots = torch.full_like(every, slot, dtype=torch.int32)
        if slot >= len(self.table_SN):
            more = self.table_SN.new_zeros(slot + 1 - len(self.table_SN), len(every))
            self.table_SN = torch.cat([self.table_SN, more])
        self.table_SN[slot] = self._matrix.take(every, slots)[:, 0].float()

    def of(self, slots: Tensor) -> Tensor:
        return self.table_SN[slots.long()]


@dataclass(frozen=True)
class DeviceMethod:
    """In place of the `quant_method` of a linear layer, a head or an embedding."""

    step: DeviceStep
    matrix: DeviceMatrix
    bias: DeviceVectors | None = None

    def apply(self, layer: Any, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Each row by its own task's weights and, where tasks differ in it, bias."""
        added = bias
        if bias is not None:
            added = bias.float() if self.bias is None else self.bias.table_SN
        y_MR = self.matrix.multiply(x.reshape(-1, x.shape[-1]), self.step.rows, added)
        return y_MR.view(*x.shape[:-1], -1)

    def embedding(self, layer: Any, ids_M: Tensor) -> Tensor:
        return self.lookup(ids_M)

    def lookup(self, ids_M: Tensor) -> Tensor:
        """Rows of the embedding, in place of the `forward` of torch's own."""
        return self.matrix.take(ids_M.long().contiguous(), self.step.slots_M)
