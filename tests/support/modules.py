"""Plain torch modules that carry a checkpoint's names."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from tests.support.families import State, bits


class Named(nn.Module):
    """Nested modules with one parameter per dotted name, or a buffer where it is no float."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        super().__init__()
        for name, value in state.items():
            *path, leaf = name.split(".")
            place: nn.Module = self
            for part in path:
                if part not in place._modules:
                    place.add_module(part, nn.Module())
                place = place.get_submodule(part)
            if value.is_floating_point():
                place.register_parameter(leaf, nn.Parameter(value.clone()))
            else:
                place.register_buffer(leaf, value.clone())

    def forward(self, x: Tensor) -> Tensor:
        for value in self.parameters():
            x = x + value.float().sum()
        return x


class ConvNet(nn.Module):
    """Convolutions, batch norms with running statistics and integer counters, a linear head."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        self.block = nn.Sequential(nn.Conv2d(8, 8, 3, groups=2), nn.BatchNorm2d(8), nn.ReLU())
        self.fc = nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.block(self.stem(x)).mean((2, 3)))
        return logits


def state_of(module: nn.Module) -> State:
    """A copy of its state_dict."""
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def holds(module: nn.Module, state: Mapping[str, Tensor]) -> bool:
    """Whether a module's tensors are these, bit for bit."""
    live = module.state_dict()
    return all(torch.equal(bits(live[name].detach()), bits(value)) for name, value in state.items())
