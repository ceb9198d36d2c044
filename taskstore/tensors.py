"""Rebuilt tensors as torch tensors on the CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from taskstore.checkpoint.pickled import DTYPES
from taskstore.loader import ModelReader, rebuild
from taskstore.progress import Callback, Meter

TORCH = {name: dtype for dtype, name in DTYPES.items()}


def load(
    reader: ModelReader,
    names: Sequence[str],
    aliases: Mapping[str, str],
    jobs: int,
    progress: Callback,
) -> dict[str, torch.Tensor]:
    """name -> tensor, each checked; an alias is the same tensor as what it stands for."""
    wanted = list(dict.fromkeys(aliases.get(name, name) for name in names))
    meter = Meter(progress, sum(reader.tensors[name].nbytes for name in wanted))
    flat: dict[str, torch.Tensor] = {}
    for tensor, offset, bits_N in rebuild(reader, wanted, jobs):
        if tensor.name not in flat:  # its sections are open by now, so its size is no mere claim
            flat[tensor.name] = torch.empty(tensor.nbytes, dtype=torch.uint8)
        flat[tensor.name].numpy()[offset : offset + bits_N.nbytes] = bits_N.view("u1")
        meter.add(tensor.name, bits_N.nbytes)
    nothing = torch.empty(0, dtype=torch.uint8)
    tensors = {
        name: flat.get(name, nothing).view(TORCH[t.dtype]).view(t.shape)
        for name, t in ((name, reader.tensors[name]) for name in wanted)
    }
    return {name: tensors[aliases.get(name, name)] for name in names}
