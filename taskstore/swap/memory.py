"""Adds up the memory that an attached family takes, before it is allocated.

The device holds the live weights, D (as much again as the masked weights), and T bits per masked
weight; where masks wait in host memory, one bit per masked weight and two small buffers instead.
"""

from __future__ import annotations

import mmap
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, fields

import torch

from taskstore import devices

LAZY = 1 << 20  # bytes
WAY_OUT = "attach fewer tasks"
WAY_OUT_DEVICE = "attach fewer tasks, or use masks='host'"


@dataclass(frozen=True)
class SwapMemory:
    """Bytes, by what they are for; of one device, or all together.

    live      the module's own tensors
    delta     D, beside them
    base      the base's weights, where a rest is added to them
    vectors   quantised vectors of the tasks, where the masks are; about
    masks     one bit per masked weight and task; in host memory where `masks_on_host`
    active    one more mask beside the weights, where masks wait in host memory
    values    tensors that are a task's own (heads), where the masks are
    staging   buffers for transfers
    """

    live: int = 0
    delta: int = 0
    base: int = 0
    vectors: int = 0
    masks: int = 0
    active: int = 0
    values: int = 0
    staging: int = 0
    masks_on_host: bool = False

    @property
    def total(self) -> int:
        sizes = (getattr(self, field.name) for field in fields(self))
        return sum(size for size in sizes if not isinstance(size, bool))

    def needs(self) -> tuple[dict[str, int], dict[str, int]]:
        """What attaching allocates (name -> bytes) on the device, and in host memory."""
        beside = {
            "base's weights": self.base,
            "D": self.delta,
            "active mask": self.active,
            "staging": self.staging,
        }
        bits = {
            "masks": self.masks,
            "vectors": self.vectors,
            "tensors of single tasks": self.values,
        }
        return (beside, bits) if self.masks_on_host else (beside | bits, {})


def add(parts: Iterable[SwapMemory]) -> SwapMemory:
    """The sum over devices."""
    found = list(parts)
    sizes = {
        field.name: sum(getattr(part, field.name) for part in found)
        for field in fields(SwapMemory)
        if field.name != "masks_on_host"
    }
    return SwapMemory(**sizes, masks_on_host=any(part.masks_on_host for part in found))


def require(parts: Iterable[tuple[torch.device, SwapMemory]]) -> None:
    """Raise NotEnoughMemory unless every part fits on its device."""
    host: Counter[str] = Counter()
    for device, memory in parts:
        beside, on_host = memory.needs()
        devices.require(device, beside, WAY_OUT if memory.masks_on_host else WAY_OUT_DEVICE)
        host.update(on_host)
    devices.require(torch.device("cpu"), host, WAY_OUT)


def blank(nbytes: int, device: torch.device) -> torch.Tensor:
    """uint8 memory, all zero; much of it on a CPU gets its pages when they are first written."""
    if device.type != "cpu" or nbytes < LAZY:
        return torch.zeros(nbytes, dtype=torch.uint8, device=device)
    pages = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(pages, dtype=torch.uint8)
