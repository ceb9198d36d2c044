"""Measures Gram matrices of the inputs of linear layers, G = X^T X / n (RegMean, arXiv 2212.09849).

X are the n inputs that a layer saw, every position of every example. Only examples of equal length
run together, so none of the inputs is padding. A layer that saw no input (an expert that was never
chosen) has a matrix of zeros. Layers whose matrices do not fit in memory together are measured in
several passes over the examples.

Legend: I = inputs of a layer, O = outputs, B = positions of a batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from taskstore.errors import InputError
from taskstore.statistics.measured_model import Subject


@dataclass(frozen=True)
class Linear:
    """A weight, where it stands in the file, and the layers that multiply with it."""

    weight: nn.Parameter
    names: tuple[str, ...]
    modules: tuple[nn.Module, ...]
    transposed: bool  # (I, O), as in GPT-2; else (O, I)
    shared: bool  # an embedding looks rows up in it, too

    @property
    def inputs(self) -> int:
        return self.weight.shape[0 if self.transposed else 1]

    @property
    def nbytes(self) -> int:
        return 4 * self.inputs**2


def linears(subject: Subject) -> list[Linear]:
    """In the order in which the model has them."""
    from transformers.pytorch_utils import Conv1D

    modules: dict[Any, list[nn.Module]] = {}
    embedded = set()
    for module in subject.module.modules():
        if isinstance(module, nn.Embedding):
            embedded.add(module.weight)
        elif isinstance(module, nn.Linear | Conv1D):
            modules.setdefault(module.weight, []).append(module)
    names = subject.whole()
    return [
        Linear(w, names[w], tuple(users), isinstance(users[0], Conv1D), w in embedded)
        for w, users in modules.items()
        if w in names
    ]


def groups(layers: Sequence[Linear], room: int) -> list[list[Linear]]:
    """Layers whose matrices fit in `room` bytes together; raises InputError where one does not."""
    found: list[list[Linear]] = []
    left = 0
    for layer in layers:
        if layer.nbytes > room:
            raise InputError(
                f"max-memory leaves {max(room, 0) >> 20} MiB beside the weights; the Gram matrix "
                f"of {layer.names[0]!r} needs {(layer.nbytes >> 20) + 1} MiB"
            )
        if not found or layer.nbytes > left:
            found.append([])
            left = room
        found[-1].append(layer)
        left -= layer.nbytes
    return found


class Grams(ExitStack):
    """Sums X^T X of some layers while the model runs; its end takes the hooks off the model."""

    def __init__(self, layers: Sequence[Linear]) -> None:
        super().__init__()
        self._layers = layers
        self._sums: Mapping[nn.Parameter, Tensor] = {
            layer.weight: torch.zeros(layer.inputs, layer.inputs, device=layer.weight.device)
            for layer in layers
        }
        self._rows = dict.fromkeys(self._sums, 0)
        for layer in layers:
            for module in layer.modules:
                hook = module.register_forward_pre_hook(self._add, with_kwargs=True)
                self.callback(hook.remove)

    def _add(self, module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        x = args[0] if args else next(iter(kwargs.values()))
        x_BI = x.detach().reshape(-1, x.shape[-1])
        self._sums[module.weight].addmm_(x_BI.T, x_BI)
        self._rows[module.weight] += x_BI.shape[0]

    def results(self) -> Iterator[tuple[Linear, Tensor]]:
        for layer in self._layers:
            yield layer, self._sums[layer.weight].div_(max(1, self._rows[layer.weight]))
