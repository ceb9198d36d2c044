"""A model of plain parameters, named as in its checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor, nn


def read_tensors(files: Sequence[Path], device: str) -> dict[str, Tensor]:
    """All tensors of a checkpoint as safetensors loads them; on the CPU that maps the files."""
    return {
        name: tensor for file in files for name, tensor in load_file(file, device=device).items()
    }


def build(files: Sequence[Path], device: str) -> nn.Module:
    """A module that owns a copy of the checkpoint; nothing in it computes."""
    root = nn.Module()
    for file in files:
        for name, tensor in load_file(file).items():
            *path, last = name.split(".")
            owned = tensor.to(device, copy=True)
            _below(root, path).register_parameter(last, nn.Parameter(owned, requires_grad=False))
    return root


def _below(module: nn.Module, path: Sequence[str]) -> nn.Module:
    for part in path:
        if part not in dict(module.named_children()):
            module.add_module(part, nn.Module())
        module = module.get_submodule(part)
    return module


def tensors_of(module: nn.Module) -> list[Tensor]:
    """What a swap may change, in a fixed order; in-place changes reach the module."""
    return list(module.state_dict().values())


def copy_all(sources: Sequence[Tensor], targets: Sequence[Tensor]) -> None:
    for source, target in zip(sources, targets, strict=True):
        target.copy_(source)
