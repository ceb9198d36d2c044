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
from taskstore.kernels.torch_dtypes import TORCH
from taskstore.progress import Callback, Meter
from taskstore.store.rebuild import ModelReader, rebuild


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
    total = sum(reader.tensors[name].nbytes for name in wanted)
    try:
        devices.require(where, {"weights": total}, "take another device, or fewer tensors")
    except NotEnoughMemory:
        for name in wanted:  # a size that the files do not back is damage, and said first
            reader.chunk_count(name)
        raise
    meter = Meter(progress, total)
    flat: dict[str, torch.Tensor] = {}
    for tensor, offset, bits_N in rebuild(reader, wanted, executor):
        if tensor.name not in flat:  # its sections are open by now: they prove its size
            flat[tensor.name] = torch.empty(tensor.nbytes, dtype=torch.uint8, device=where)
        copy_in(flat[tensor.name], offset, bits_N)
        meter.add(tensor.name, bits_N.nbytes)
    nothing = torch.empty(0, dtype=torch.uint8, device=where)
    tensors = {
        name: flat.get(name, nothing).view(TORCH[t.dtype]).view(t.shape)
        for name, t in ((name, reader.tensors[name]) for name in wanted)
    }
    return {name: tensors[aliases.get(name, name)] for name in names}


def copy_in(flat: torch.Tensor, offset: int, bits_N: NDArray[Any]) -> None:
    """Put bits at a byte offset of a uint8 tensor on any device; done when it returns."""
    bytes_N = bits_N.view("u1")
    if flat.device.type == "cpu":
        flat.numpy()[offset : offset + bytes_N.size] = bytes_N
    else:
        source = torch.from_numpy(np.require(bytes_N, requirements="W"))
        flat[offset : offset + bytes_N.size].copy_(source)
