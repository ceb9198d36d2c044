"""How much of a task vector a rest of some bits misses: quantised and rebuilt."""

from __future__ import annotations

import numpy as np

from taskstore.executors import ordered_map
from taskstore.kernels import cpu, floats
from taskstore.models.compare import Plan
from taskstore.models.family import Family
from taskstore.packing.options import PackOptions
from taskstore.rungs import levels_for, rest
from taskstore.vectors import Block, blocks, read_base

SAMPLE = 64  # blocks


def rest_error(
    family: Family, plan: Plan, t: int, bits: float, options: PackOptions, *, sample: bool = False
) -> float:
    """|rebuilt - fine-tune|^2 / |task vector|^2 of task `t`, the rest being its lowest tier.

    Over all quantised tensors, or over a sample of about SAMPLE blocks, spread over them.
    """
    tensors = [
        (name, info)
        for name, info in sorted(family.base.tensors.items())
        if t in plan.tasks_of(name, "rest") and name not in plan.aliases and info.numel
    ]
    every = [b for name, info in tensors for b in blocks(name, info, (t,), options.chunk)]
    if sample and len(every) > SAMPLE:
        every = [every[k] for k in np.linspace(0, len(every) - 1, SAMPLE).round().astype(int)]

    def one(block: Block) -> tuple[float, float]:
        task, w0_N = family.tasks[t], read_base(family, block)
        dtype, label = task.tensors[block.name].dtype, (task.name, block.name)
        theta_N = task.read(block.name, block.start, block.stop)
        below_N = cpu.cast(w0_N, block.info.dtype, dtype)
        codec = levels_for(block.info.shape, block.start, bits)
        rebuilt_N = rest(codec, theta_N, below_N, dtype, label)[1]
        missed_N, tau_N = (
            floats.to_float32(theta_N, dtype) - floats.to_float32(other_N, dtype)
            for other_N in (rebuilt_N, below_N)
        )
        return float(np.dot(missed_N, missed_N)), float(np.dot(tau_N, tau_N))

    found = list(ordered_map(one, every, jobs=options.jobs))
    missed, size = (sum(part) for part in zip(*found, strict=True)) if found else (0.0, 0.0)
    return missed / size if size else 0.0
