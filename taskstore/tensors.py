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
    flat = {name: torch.empty(reader.tensors[name].nbytes, dtype=torch.uint8) for name in wanted}
    for tensor, offset, bits_N in rebuild(reader, wanted, jobs):
        flat[tensor.name].numpy()[offset : offset + bits_N.nbytes] = bits_N.view("u1")
        meter.add(tensor.name, bits_N.nbytes)
    tensors = {
        name: flat[name].view(TORCH[reader.tensors[name].dtype]).view(reader.tensors[name].shape)
        for name in wanted
    }
    return {name: tensors[aliases.get(name, name)] for name in names}
