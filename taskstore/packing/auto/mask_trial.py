"""Measure on a sample what masks of a family would keep, and take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from taskstore.format.fidelity import of_sums
from taskstore.format.manifest import Sums
from taskstore.merging.methods import make
from taskstore.merging.task_vectors import Block, Source
from taskstore.packing import multitask
from taskstore.packing.auto.sample import Piece
from taskstore.packing.job import PackJob
from taskstore.packing.mask_coder import MaskCoder

FEW = 16  # about so many runs are enough to see that masks are out of the question


@dataclass(frozen=True)
class Masks:
    """Masks of all tasks: the largest error of one, and about their bytes and W1's."""

    error: float
    size: float


def measured(job: PackJob, sample: Sequence[Piece], most: float, size: float) -> Masks | None:
    """Return what masks give where no error is above `most` and they take less than `size`.

    `job` is that of a pack with masks alone. A few runs are looked at first.
    """
    source = Source(job.family, make(job.options.method), job.options.chunk)
    coder = MaskCoder(job, source.method, one_in=1)
    runs = [(run, piece.weight) for piece in sample for run in piece.runs]
    for some in (runs[:: 1 + len(runs) // FEW], runs):
        found = _measured(job, (source, coder), some)
        found = replace(found, size=found.size * _weights(runs) / _weights(some))
        if found.error > most or found.size >= size:
            return None
    return found


def _weights(runs: Sequence[tuple[Block, float]]) -> float:
    return sum(weight * (run.stop - run.start) for run, weight in runs)


def _measured(
    job: PackJob, shared: tuple[Source, MaskCoder], runs: Sequence[tuple[Block, float]]
) -> Masks:
    sums_T4, size = np.zeros((len(job.family.tasks), 4)), 0.0
    done = job.executor.map(_of_run, shared, [run for run, _ in runs])
    for (run, weight), (sums_S4, count) in zip(runs, done, strict=True):
        sums_T4[list(run.tasks)] += weight * sums_S4
        size += weight * count
    return Masks(max(of_sums(Sums.of(sums_4.tolist())).error or 0.0 for sums_4 in sums_T4), size)


def _of_run(shared: tuple[Source, MaskCoder], run: Block) -> tuple[NDArray[np.float64], int]:
    """Return the four sums of each task's mask (S, 4), and the bytes of all with W1's."""
    source, coder = shared
    weights, dtype = source.block(run), run.info.dtype
    merged_N = source.merge(weights)
    codec = "rounded" if dtype == "F32" else "ulp"
    w1_N, streams = multitask.multitask(codec, weights, merged_N, dtype)
    parts = [
        coder.mask(run, t, weights.tau_SN[s], merged_N, weights, w1_N)
        for s, t in enumerate(run.tasks)
    ]
    count = sum(
        len(one) for streams in (streams, *(part.streams for part in parts)) for one in streams
    )
    return np.array([part.sums for part in parts]), count
