"""Rebuild tensors as torch tensors on a device.

They are allocated there and filled block by block, so that host memory holds only the blocks in
flight where the device is not the CPU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from taskstore import devices
from taskstore.errors import NotEnoughMemory
from taskstore.executors import Executor
from taskstore.format.dtypes import nbytes
from taskstore.format.weight_files import Shaped
from taskstore.kernels.torch_dtypes import TORCH
from taskstore.progress import Callback, Meter
from taskstore.store.blocks import own_blocks
from taskstore.store.rebuild import ModelReader


def load(
    reader: ModelReader,
    names: Sequence[str],
    aliases: Mapping[str, str],
    executor: Executor,
    progress: Callback,
    device: devices.Device,
) -> dict[str, torch.Tensor]:
    """Return name -> tensor, each checked; an alias is the same tensor as what it stands for.

    Raises DeviceError where the device is missing or has no room for all of them.
    """
    where = devices.resolve(device)
    wanted = list(dict.fromkeys(aliases.get(name, name) for name in names))
    total = sum(reader.own_tensors[name].nbytes for name in wanted)
    try:
        devices.require(where, {"weights": total}, "take another device, or fewer tensors")
    except NotEnoughMemory:
        for name in wanted:  # a size that the files do not back is damage, and said first
            for of in reader.saved[name].of if name in reader.saved else (name,):
                reader.chunk_count(of)
        raise
    meter = Meter(progress, total)
    target = _Tensors(reader.own_tensors, where)
    for name, bits_N in own_blocks(reader, wanted, executor, target):
        meter.add(name, bits_N.nbytes)
    nothing = torch.empty(0, dtype=torch.uint8, device=where)
    tensors = {
        name: target.flat.get(name, nothing).view(TORCH[t.dtype]).view(t.shape)
        for name, t in ((name, reader.own_tensors[name]) for name in wanted)
    }
    return {name: tensors[aliases.get(name, name)] for name in names}


class _Tensors:
    """Tensors on a device that are filled by those who decode them: name -> uint8 (bytes,)."""

    def __init__(self, tensors: Mapping[str, Shaped], device: torch.device) -> None:
        self._tensors, self._device = tensors, device
        self.flat: dict[str, torch.Tensor] = {}

    def begin(self, name: str) -> None:
        size = nbytes(self._tensors[name].dtype, self._tensors[name].shape)
        if name not in self.flat:
            self.flat[name] = torch.empty(size, dtype=torch.uint8, device=self._device)

    def put(self, name: str, offset: int, bits_N: NDArray[Any]) -> None:
        copy_in(self.flat[name], offset, bits_N)


def copy_in(flat: torch.Tensor, offset: int, bits_N: NDArray[Any]) -> None:
    """Put bits at a byte offset of a uint8 tensor on any device; done when it returns."""
    bytes_N = bits_N.view("u1")
    if flat.device.type == "cpu":
        flat.numpy()[offset : offset + bytes_N.size] = bytes_N
    else:
        source = torch.from_numpy(np.require(bytes_N, requirements="W"))
        flat[offset : offset + bytes_N.size].copy_(source)
