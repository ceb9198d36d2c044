"""The blocks of a merged model: one worker reads, merges, adds and rounds a block.

Arithmetic is float32, rounded once, to the dtype of the output. Legend: N = elements of a block.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskstore.errors import NotFinite, Overflows
from taskstore.kernels import cpu, floats
from taskstore.locations.files import write_all
from taskstore.merging.job import MergeJob
from taskstore.merging.methods import F32
from taskstore.merging.outputs import Output
from taskstore.merging.task_vectors import Block, blocks, chunk_of
from taskstore.models import Checkpoint, TensorInfo

Bits = NDArray[Any]


@dataclass(frozen=True)
class MergeUnit:
    """One block of the output `name`: merged, or copied from a model."""

    name: str
    block: Block
    copied: bool


def merged_blocks(job: MergeJob, names: list[str]) -> Iterator[tuple[str, Bits]]:
    """(name, bits) of the blocks of some outputs, in their order."""
    return job.executor.map(_block, job, _units(job, names))


def fill_tensor(shared: tuple[MergeJob, Path], unit: tuple[str, str, int]) -> str:
    """Write a tensor into a file that is there: (tensor, file, its first byte); for any process."""
    (job, folder), (name, file, at) = shared, unit
    fd = os.open(folder / file, os.O_WRONLY)
    try:
        os.lseek(fd, at, os.SEEK_SET)
        for block in _units(job, [name]):
            write_all(fd, _block(job, block)[1].data)
        os.fsync(fd)
    finally:
        os.close(fd)
    job.source.prove()
    return name


def _units(job: MergeJob, names: list[str]) -> Iterator[MergeUnit]:
    chunk, base = job.options.chunk, job.family.base.tensors
    for name in names:
        output = job.outputs.tensors[name]
        if output.source:
            info = base[output.source]
            size = chunk_of(info, chunk, job.source.method)
            for block in blocks(output.source, info, output.tasks, size):
                if block.start < output.info.numel:  # fewer where a vocabulary was cut
                    yield MergeUnit(name, block, copied=False)
        if output.copied is not None:
            theirs = output.copied.tensors[name]
            left = TensorInfo(theirs.dtype, (theirs.numel - output.start,))
            for block in blocks(name, left, (), chunk):
                yield MergeUnit(name, block, copied=True)


def _block(job: MergeJob, unit: MergeUnit) -> tuple[str, Bits]:
    name, block, output = unit.name, unit.block, job.outputs.tensors[unit.name]
    if unit.copied:
        assert output.copied is not None
        return name, _copied(output, output.copied, block)
    left = output.info.numel - block.start
    if not block.tasks:
        bits_N = job.family.base.read(block.name, block.start, block.stop)
        return name, cpu.cast(bits_N, block.info.dtype, output.info.dtype)[:left]
    vectors = job.source.block(block)
    merged_N = job.source.merge(vectors)
    bits_N = added(vectors.theta0_N, merged_N, job.options.scale, output.info.dtype, name)
    return name, bits_N[:left]


def _copied(output: Output, model: Checkpoint, block: Block) -> Bits:
    """Elements from `output.start` on of a model's tensor, in the output's dtype, NaN as it is."""
    bits_N = model.read(block.name, output.start + block.start, output.start + block.stop)
    return cpu.cast(bits_N, block.info.dtype, output.info.dtype)


def added(theta0_N: F32, tau_N: F32, alpha: float, dtype: str, tensor: str) -> Bits:
    """round(theta_0 + alpha tau) as bits of `dtype`, (N,); what is not finite in theta_0 stays.

    Raises NotFinite, or Overflows if only the sum is not finite.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        scaled_N = tau_N if alpha == 1 else tau_N * np.float32(alpha)
        bits_N = floats.from_float32(theta0_N + scaled_N, dtype)
    if not floats.all_finite(bits_N, dtype):
        given_N = np.isfinite(theta0_N)
        if floats.all_finite(bits_N[given_N], dtype):
            return np.where(given_N, bits_N, floats.from_float32(theta0_N, dtype))
        if not np.isfinite(tau_N).all():
            raise NotFinite("the merged vector", tensor)
        raise Overflows(tensor, dtype)
    return bits_N
