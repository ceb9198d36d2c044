"""Code the multi-task weights W1, tensor by tensor: for fp32 in the smaller of two ways."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskstore.format.codecs.rounded import values
from taskstore.format.section import encode
from taskstore.kernels import cpu, floats
from taskstore.merging.methods import Vectors
from taskstore.merging.task_vectors import Block, Source, blocks
from taskstore.packing.job import PackJob

F32 = NDArray[np.float32]
SAMPLES = 4  # chunks of an fp32 tensor on which both ways are measured


def choose(job: PackJob, source: Source) -> dict[str, str]:
    """Choose the codec of W1 for each masked tensor, for fp32 by a sample of its chunks."""
    if job.family.multitask:
        return dict(job.family.multitask.codecs)
    chunk = job.options.chunk
    lossless = "ulp" if job.options.level == "speed" else "deltas"
    codings: dict[str, str] = {}
    sampled: list[Block] = []
    for name, info in sorted(job.family.base.tensors.items()):
        masked = job.plan.tasks_of(name, "mask")
        if not masked or name in job.plan.aliases:
            continue
        codings[name] = lossless
        if info.dtype == "F32" and info.numel:
            count = -(-info.numel // chunk)
            sample = sorted({round(i * (count - 1) / (SAMPLES - 1)) for i in range(SAMPLES)})
            sampled += blocks(name, info, masked, chunk, only=sample)
    gain: dict[str, int] = {}
    for name, count in job.executor.map(_saved, (source, lossless), sampled):
        gain[name] = gain.get(name, 0) + count
    return codings | {name: "rounded" for name, count in gain.items() if count > 0}


def _saved(shared: tuple[Source, str], block: Block) -> tuple[str, int]:
    """Measure how many bytes `rounded` saves against the lossless codec on one block."""
    source, lossless = shared
    weights = source.block(block)
    merged_N = source.merge(weights)
    other, rounded = (
        sum(map(len, multitask(codec, weights, merged_N, block.info.dtype)[1]))
        for codec in (lossless, "rounded")
    )
    return block.name, other - rounded


def multitask(
    codec: str, weights: Vectors, merged_N: F32, dtype: str
) -> tuple[NDArray[Any], list[bytes]]:
    """Return W1 as the store will rebuild it, bits (N,), and its stored streams."""
    if codec == "rounded":
        vector_N = floats.from_float32(merged_N, "BF16")
        return values(vector_N, weights.w0_N), encode(codec, vector_N)
    w1_N = cpu.add(weights.theta0_N, merged_N, weights.w0_N, dtype)
    return w1_N, encode(codec, w1_N, weights.w0_N)
