"""A family's task vectors in memory, all shared tensors laid end to end.

Shared are the float tensors that the base and every fine-tune have, in one shape. What only one
model has (heads) is in no method's vectors and in no method's bits: each task keeps its own.

Legend: N = weights of all shared tensors, T = tasks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Vectors:
    """`shapes` in the order in which the tensors lie."""

    base_N: Tensor  # the checkpoint's dtype
    tau_TN: Tensor  # float32
    shapes: dict[str, torch.Size]

    @property
    def tasks(self) -> int:
        return self.tau_TN.shape[0]

    @property
    def weights(self) -> int:
        return self.tau_TN.shape[1]

    def tensors(self) -> Iterator[tuple[slice, torch.Size]]:
        """Where each tensor lies, and its shape."""
        begin = 0
        for shape in self.shapes.values():
            yield slice(begin, begin + shape.numel()), shape
            begin += shape.numel()

    def moved(self, delta_N: Tensor) -> Tensor:
        """W0 + delta, rounded to the checkpoint's dtype."""
        return (self.base_N.float() + delta_N).to(self.base_N.dtype)

    def flat(self, state: State) -> Tensor:
        """A model's shared tensors, end to end."""
        return torch.cat([state[name].reshape(-1) for name in self.shapes])

    def state(self, theta_N: Tensor) -> dict[str, Tensor]:
        """The other way."""
        parts = zip(self.shapes, self.tensors(), strict=True)
        return {name: theta_N[where].view(shape) for name, (where, shape) in parts}


def matrix(shape: torch.Size) -> tuple[int, int] | None:
    """Rows and columns of a weight: ones in front dropped, the rest by its first dimension.

    None for what is then no matrix: norms and biases.
    """
    sizes = list(shape)
    while sizes and sizes[0] == 1:
        sizes.pop(0)
    return (sizes[0], shape.numel() // sizes[0]) if len(sizes) > 1 else None


def read(base: Path, tasks: Mapping[str, Path]) -> Vectors:
    """From model folders; raises ValueError where the shared tensors are not of one dtype."""
    theta0 = load_file(base / "model.safetensors")
    thetas = [load_file(folder / "model.safetensors") for folder in tasks.values()]
    shapes = {
        name: weight.shape
        for name, weight in sorted(theta0.items())
        if weight.is_floating_point()
        and all(name in theta and theta[name].shape == weight.shape for theta in thetas)
    }
    dtypes = {state[name].dtype for state in (theta0, *thetas) for name in shapes}
    if len(dtypes) != 1:
        raise ValueError(f"{base} and its fine-tunes share no tensors of one dtype: {dtypes}")
    base_N = torch.cat([theta0[name].reshape(-1) for name in shapes])
    tau_TN = torch.stack(
        [
            torch.cat([theta[n].reshape(-1) for n in shapes]).float() - base_N.float()
            for theta in thetas
        ]
    )
    return Vectors(base_N, tau_TN, shapes)
