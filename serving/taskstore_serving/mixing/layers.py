"""What layers compute in a mixed step: each row with the weights of its own task.

Matrices are rebuilt by the kernel, a few rows at a time. Norms and biases are vectors, of which
each task has a copy, made by the same kernel. All is in float32 and rounded once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from taskstore.kernels.mixed.matrix import BASE, Groups, MixedMatrix

_BITS = {2: (torch.int16, np.uint16), 4: (torch.int32, np.uint32)}


@dataclass
class Step:
    """The rows of the step that is computed; one for all layers of a model."""

    tasks_M: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    groups: Groups = field(init=False)
    slots_M: Tensor = field(init=False)
    slots_G: Tensor = field(init=False)

    def show(self, tasks_M: NDArray[np.int32]) -> None:
        """Begin with rows of these tasks, by number."""
        self.tasks_M, self.groups = tasks_M, Groups.of(tasks_M)
        self.slots_M = torch.from_numpy(tasks_M.astype(np.int64) - BASE)
        self.slots_G = torch.from_numpy(self.groups.tasks_G.astype(np.int64) - BASE)


class Vectors:
    """A norm's or a bias's weights of the base and all tasks, float32; slot 0 is the base's."""

    def __init__(self, matrix: MixedMatrix, dtype: torch.dtype) -> None:
        self._matrix, self._dtype = matrix, dtype
        self._table_SN = torch.empty(0, matrix.rows)
        self.learn(BASE)

    def learn(self, task: int) -> None:
        """Make a task's copy, by its number."""
        slot, every = task - BASE, np.arange(self._matrix.rows)
        bits_N = self._matrix.take(every, np.full(len(every), task, np.int32))[:, 0]
        mine = torch.from_numpy(bits_N.view(f"i{bits_N.itemsize}")).view(self._dtype).float()
        if slot >= len(self._table_SN):
            more = torch.empty(slot + 1 - len(self._table_SN), len(every))
            self._table_SN = torch.cat([self._table_SN, more])
        self._table_SN[slot] = mine

    def of(self, slots: Tensor) -> Tensor:
        return self._table_SN[slots]


def bits(tensor: Tensor) -> NDArray[Any]:
    """A matrix's memory as unsigned integers."""
    signed, unsigned = _BITS[tensor.element_size()]
    return tensor.view(signed).numpy().view(unsigned)


@dataclass
class Product:
    """In place of a linear layer's or a head's `cpu_linear`."""

    step: Step
    matrix: MixedMatrix
    bias: Vectors | None

    def __call__(self, x_MC: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        assert len(x_MC) == len(self.step.tasks_M), "a layer computes other rows than the step's"
        y_MR = x_MC.new_empty(len(x_MC), self.matrix.rows)
        bias_GR = None
        if bias is not None and self.bias is not None:
            bias_GR = self.bias.of(self.step.slots_G).numpy()
        elif bias is not None:
            groups = len(self.step.groups.tasks_G)
            bias_GR = bias.float().expand(groups, -1).contiguous().numpy()
        x, y, threads = bits(x_MC.contiguous()), bits(y_MR), torch.get_num_threads()
        self.matrix.multiply(x, self.step.groups, y, bias_GR, threads)
        return y_MR


@dataclass
class Lookup:
    """In place of an embedding's `forward`."""

    step: Step
    matrix: MixedMatrix
    dtype: torch.dtype

    def __call__(self, ids_M: Tensor) -> Tensor:
        rows = self.matrix.take(ids_M.long().contiguous().numpy(), self.step.tasks_M)
        return torch.from_numpy(rows.view(f"i{rows.itemsize}")).view(self.dtype)


@dataclass
class Norm:
    """In place of a norm's `forward`: vLLM's RMSNorm, or torch's LayerNorm."""

    step: Step
    module: Any
    weight: Vectors | None
    bias: Vectors | None

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Any:
        wide = x.float() if residual is None else x.float() + residual.float()
        if isinstance(self.module, nn.LayerNorm):
            normed = functional.layer_norm(wide, self.module.normalized_shape, eps=self.module.eps)
        else:
            mean = wide.square().mean(-1, keepdim=True)
            normed = wide * torch.rsqrt(mean + self.module.variance_epsilon)
        normed = normed * self._rows(self.weight, self.module.weight, x)
        if getattr(self.module, "bias", None) is not None:
            normed = normed + self._rows(self.bias, self.module.bias, x)
        found = normed.to(x.dtype)
        return found if residual is None else (found, wide.to(residual.dtype))

    def _rows(self, vectors: Vectors | None, shared: Tensor, x: Tensor) -> Tensor:
        if vectors is None:
            return shared.float()
        rows = vectors.of(self.step.slots_M)
        return rows.view(len(rows), *[1] * (x.dim() - 2), -1)


@dataclass(frozen=True)
class Layer:
    """What a module does instead of one of its attributes in a mixed step."""

    module: nn.Module
    attribute: str
    instead: Any
