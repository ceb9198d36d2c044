"""The kernels of mixed steps of a device, and what takes the place of a layer's parts with them."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn
from vllm.model_executor.layers.linear import UnquantizedLinearMethod
from vllm.model_executor.layers.vocab_parallel_embedding import (
    ParallelLMHead,
    UnquantizedEmbeddingMethod,
    VocabParallelEmbedding,
)

from taskstore.kernels.mixed.matrix import MixedMatrix
from taskstore.kernels.torch_dtypes import DTYPES
from taskstore_serving.mixing.layers import Lookup, Product, Step, Vectors
from taskstore_serving.weights import parameters


class Kernels(Protocol):
    """Those of a device. A matrix is what `MixedMatrix` is, and whatever else goes with it."""

    def computes(self, module: Any) -> bool:
        """Whether a linear layer, head or embedding of vLLM can be had."""

    def step(self, most: int) -> Any:
        """The rows of a step, at most so many."""

    def matrix(self, rows: int, columns: int, like: Tensor) -> Any:
        """A matrix without segments, of the dtype and device of a tensor."""

    def shared(self, weight: Tensor) -> Any:
        """A matrix that all tasks have as it is."""

    def vectors(self, matrix: Any, dtype: torch.dtype) -> Any:
        """Copies of a vector of all tasks."""

    def instead(self, step: Any, module: Any, matrix: Any, bias: Any) -> dict[str, Any]:
        """Attribute of a linear layer, head or embedding -> what takes its place."""


class _OnHost:
    def computes(self, module: Any) -> bool:
        return hasattr(module, "cpu_linear")

    def step(self, most: int) -> Step:
        return Step()

    def matrix(self, rows: int, columns: int, like: Tensor) -> MixedMatrix:
        return MixedMatrix(rows, columns, DTYPES[like.dtype])

    def shared(self, weight: Tensor) -> MixedMatrix:
        matrix = self.matrix(weight.shape[0], weight.shape[1], weight)
        unsigned = f"u{weight.element_size()}"
        matrix.segment(parameters.integers(weight.data).numpy().view(unsigned))
        return matrix

    def vectors(self, matrix: MixedMatrix, dtype: torch.dtype) -> Vectors:
        return Vectors(matrix, dtype)

    def instead(
        self, step: Step, module: Any, matrix: MixedMatrix, bias: Vectors | None
    ) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if hasattr(module, "cpu_linear"):
            found["cpu_linear"] = Product(step, matrix, bias)
        if looks_up(module):
            found["forward"] = Lookup(step, matrix, module.weight.dtype)
        return found


class _OnDevice:
    def __init__(self, device: torch.device) -> None:
        from taskstore_serving.mixing import on_device  # Triton is where a GPU is

        self._device, self._parts = device, on_device

    def computes(self, module: Any) -> bool:
        plain = UnquantizedLinearMethod | UnquantizedEmbeddingMethod
        return isinstance(getattr(module, "quant_method", None), plain)

    def step(self, most: int) -> Any:
        return self._parts.DeviceStep(most, self._device)

    def matrix(self, rows: int, columns: int, like: Tensor) -> Any:
        return self._parts.matrix_like(rows, columns, like)

    def shared(self, weight: Tensor) -> Any:
        matrix = self.matrix(weight.shape[0], weight.shape[1], weight)
        matrix.segment(parameters.integers(weight.data))
        return matrix

    def vectors(self, matrix: Any, dtype: torch.dtype) -> Any:
        return self._parts.DeviceVectors(matrix)

    def instead(self, step: Any, module: Any, matrix: Any, bias: Any) -> dict[str, Any]:
        method = self._parts.DeviceMethod(step, matrix, bias)
        if type(module) is nn.Embedding:
            return {"forward": method.lookup}
        return {"quant_method": method}


def kernels_of(device: torch.device) -> Kernels:
    return _OnHost() if device.type == "cpu" else _OnDevice(device)


def looks_up(module: Any) -> bool:
    """Whether a module's `forward` is a look-up; a head has none of its own."""
    return isinstance(module, nn.Embedding | VocabParallelEmbedding) and not isinstance(
        module, ParallelLMHead
    )
