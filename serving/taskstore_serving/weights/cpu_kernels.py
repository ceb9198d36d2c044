"""Chooses the kernels that multiply on the CPU: vLLM's own choices drop the original weights.

Where the processor multiplies bf16 (AMX, or AVX-512), bf16 matrices that only linear layers read
are put in the order of a kernel of vLLM's, and swapped in that order (kernel_order.py). All others
are multiplied as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from vllm import _custom_ops as ops
from vllm.model_executor.layers.linear import LinearBase
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.platforms import current_platform

from taskstore_serving.weights import kernel_order
from taskstore_serving.weights.family import LiveFamily


def keep_plain(model: nn.Module) -> None:
    """Make vLLM leave the weights where and as they are; call it before it prepares them."""
    for module in model.modules():
        module._cpu_skip_gemm_dispatch = True  # type: ignore[assignment]


def multiply_plain(model: nn.Module) -> None:
    """Make heads and embeddings compute from the weights, not a copy; call it afterwards."""
    for module in model.modules():
        if hasattr(module, "cpu_linear"):
            module.cpu_linear = torch.nn.functional.linear  # type: ignore[assignment]


def reorder(model: nn.Module, family: LiveFamily) -> None:
    """Reorder matrices, and make the engine compute from them so. The base must be live."""
    if not current_platform.is_cpu():
        return
    others, readers = set[int](), dict[int, Any]()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            place = parameter.data_ptr()
            linear = isinstance(module, LinearBase | ParallelLMHead) and name == "weight"
            if linear and hasattr(module, "cpu_linear") and kernel_order.fits(parameter.data):
                readers.setdefault(place, []).append(module)
            else:
                others.add(place)
    places = {place: modules for place, modules in readers.items() if place not in others}
    for place in family.reorder(places.keys()):
        for module in places[place]:
            module.cpu_linear = _multiply(module.weight.shape[0])


def _multiply(rows: int) -> Callable[[Tensor, Tensor, Tensor | None], Tensor]:
    def multiply(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        wide = None if bias is None else bias.float()  # as the kernel wants it
        product: Tensor = ops.weight_packed_linear_cpu(x, weight, rows, wide)
        return product

    return multiply
