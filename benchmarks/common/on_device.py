"""A synthetic family whose weights are drawn on a device: seconds where the CPU takes minutes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.common.llama_shapes import Llama


def write_family(root: Path, model: Llama, tasks: Sequence[str], device: torch.device) -> int:
    """A base and fine-tunes in bf16, drawn on the device; bytes of one model."""
    random = torch.Generator(device).manual_seed(7)
    folders = {name: root / name for name in ("base", *tasks)}
    states: dict[str, dict[str, Tensor]] = {name: {} for name in folders}
    for name, shape in model.shapes().items():
        weight = torch.randn(shape, generator=random, device=device) * 0.02 + (len(shape) == 1)
        states["base"][name] = weight.bfloat16().cpu()
        for task in tasks:
            step = torch.randn(shape, generator=random, device=device)
            states[task][name] = (weight.bfloat16() + step * step.abs() * 5e-4).bfloat16().cpu()
    for name, folder in folders.items():
        folder.mkdir(parents=True)
        save_file(states.pop(name), folder / "model.safetensors", metadata={"format": "pt"})
        (folder / "config.json").write_text(json.dumps(model.config("bf16")))
    return (root / "base" / "model.safetensors").stat().st_size
