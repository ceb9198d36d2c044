"""An engine's weights: written by its own loader, read with each memory once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from taskstore.errors import SwapError
from taskstore.swap.binding import Live

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def load(model: nn.Module, weights: Iterator[tuple[str, Tensor]]) -> set[str]:
    """Load weights by the model's own loader; names of the parameters that it wrote."""
    with torch.no_grad():
        written = model.load_weights(weights)  # type: ignore[operator]
    if written is None:
        kind = type(model).__name__
        raise SwapError(f"{kind}'s loader does not tell what it wrote, so it cannot be served")
    return set(written)


def tensors(model: nn.Module) -> Mapping[str, Tensor]:
    """Parameters and buffers under all of their names."""
    parameters = model.named_parameters(remove_duplicate=False)
    buffers = model.named_buffers(remove_duplicate=False)
    return {name: tensor.data for name, tensor in (*parameters, *buffers)}


def lives(model: nn.Module, names: Iterable[str]) -> list[Live]:
    """Live tensors of these names, each memory once, under the first of its names."""
    there, found = tensors(model), dict[int, Live]()
    for name in sorted(names):
        tensor = there.get(name)
        if tensor is None or not tensor.is_contiguous() or type(tensor) is not Tensor:
            raise SwapError(f"weight {name!r} is no plain dense tensor of the engine's model")
        if tensor.numel():
            found.setdefault(tensor.data_ptr(), Live((name,), tensor))
    return list(found.values())


def integers(tensor: Tensor) -> Tensor:
    """The same memory, flat, one integer a weight."""
    return tensor.view(-1).view(_INTEGERS[tensor.element_size()])
