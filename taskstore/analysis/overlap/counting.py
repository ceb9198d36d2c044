"""Counts the masks of a store in one pass, a chunk at a time, in threads.

Masks stay packed (see `kernels.bits`). Memory holds the chunks in flight and the sums.

Legend: T = tasks with masks, S = those that have one of a tensor, P = packed bytes of a chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from taskstore.analysis.overlap import angles
from taskstore.analysis.overlap.chunks import (
    Masked,
    MaskedChunk,
    MaskedTensor,
    chunks_of,
    masked_tensors,
    open_tensors,
    work_of,
)
from taskstore.analysis.overlap.places import places
from taskstore.analysis.overlap.result import Overlap, TensorUse
from taskstore.errors import FormatError
from taskstore.executors import Executor, Threads, threads
from taskstore.format import names
from taskstore.format.dtypes import numel
from taskstore.kernels import bits
from taskstore.progress import Callback, Meter, silent
from taskstore.store import Store

Counts = NDArray[np.int64]


def measure(
    store: Store, *, vectors: bool = False, jobs: int | None = None, progress: Callback = silent
) -> Overlap:
    """Count the masks of a store; with `vectors`, also say how their vectors lie.

    A store without masks gives an Overlap without tensors. Nothing is rebuilt to count: the
    files and the number of ones of each mask are proved, and `verify --deep` proves where they are.
    Raises FormatError where one is not as recorded, BaseUnavailable where a codec needs the base.
    """
    executor, masked = workers(jobs), masked_tensors(store)
    _check_files(store, masked, executor)
    total = sum(work_of(store, name, len(tasks)) for name, tasks in masked.items())
    meter = Meter(progress, total + (angles.work_of(store) if vectors else 0))
    sums = count(store, masked, executor, meter)
    _check(store, masked, sums)
    found = angles.angles_of(store, executor, meter) if vectors else None
    uses = _uses(store, masked, sums)
    return Overlap(sums.tasks, uses, sums.both_TT.tolist(), sums.own_TT.tolist(), found)


def workers(jobs: int | None) -> Threads:
    """Threads with few chunks in flight, each of all tasks; one job runs in this thread."""
    found = threads(jobs)
    return replace(found, in_flight=1 if found.jobs == 1 else found.jobs + 1)


@dataclass
class Sums:
    """What was counted so far; `rows` has the matrices' rows of a tensor's tasks."""

    tasks: list[str]
    rows: Mapping[str, Sequence[int]]
    both_TT: Counts
    own_TT: Counts
    ones: dict[str, Counts]  # tensor -> (S,)
    usage: dict[str, Counts]  # tensor -> (S + 1,)

    @classmethod
    def of(cls, masked: Masked) -> Sums:
        tasks = sorted({task for having in masked.values() for task in having})
        row = {task: i for i, task in enumerate(tasks)}
        rows = {name: [row[task] for task in having] for name, having in masked.items()}
        square = np.zeros((len(tasks), len(tasks)), np.int64)
        ones = {name: np.zeros(len(having), np.int64) for name, having in masked.items()}
        usage = {name: np.zeros(len(having) + 1, np.int64) for name, having in masked.items()}
        return cls(tasks, rows, square, square.copy(), ones, usage)

    def add(self, name: str, both_SS: Counts, usage_K: Counts) -> None:
        """`usage_K` has S + 1 counts."""
        pairs, ones_S = np.ix_(self.rows[name], self.rows[name]), both_SS.diagonal()
        self.both_TT[pairs] += both_SS
        self.own_TT[pairs] += ones_S[:, None]
        self.ones[name] += ones_S
        self.usage[name] += usage_K


def count(store: Store, masked: Masked, executor: Executor, meter: Meter) -> Sums:
    """Count the masks of these tensors."""
    sums = Sums.of(masked)
    if not masked:
        return sums
    meter.stage("counting", "masks")
    with open_tensors(store, masked, executor) as opened:
        for chunk, both_SS, usage_K in executor.map(_one, opened, chunks_of(store, masked)):
            sums.add(chunk.name, both_SS, usage_K)
            meter.add(chunk.name, chunk.work)
    return sums


def _one(
    opened: Callable[[str], MaskedTensor], chunk: MaskedChunk
) -> tuple[MaskedChunk, Counts, Counts]:
    """A chunk's pairs (S, S) and usage (S + 1,), block by block."""
    live_P, masks = opened(chunk.name).decode(chunk.k)
    both_SS = np.zeros((len(masks), len(masks)), np.int64)
    usage_K = np.zeros(len(masks) + 1, np.int64)
    for start in range(0, live_P.size, bits.BLOCK):
        block = slice(start, start + bits.BLOCK)
        rows = [mask_P[block] for mask_P in masks]
        both_SS += bits.intersections(rows)
        usage_K += bits.usage(rows, live_P[block])
    return chunk, both_SS, usage_K


def _check_files(store: Store, masked: Masked, executor: Executor) -> None:
    tasks = {task for having in masked.values() for task in having}
    stems = [
        names.MULTITASK,
        *(names.stem_of("mask", store.manifest.folder(task)) for task in sorted(tasks)),
    ]
    paths = [path for stem in stems for path in names.of_stem(stem, store.manifest.files)]
    store.check_files(paths if masked else (), executor)


def _check(store: Store, masked: Masked, sums: Sums) -> None:
    for name, having in masked.items():
        for task, found in zip(having, sums.ones[name].tolist(), strict=True):
            recorded = store.manifest.tasks[task].tensors[name].ones
            if found != recorded:
                raise FormatError(
                    f"the mask of tensor {name!r} of task {task!r} has {found} ones where the "
                    f"manifest records {recorded}; restore the file that `verify` names"
                )


def _uses(store: Store, masked: Masked, sums: Sums) -> list[TensorUse]:
    where = places(store.manifest.tensors)
    return [
        TensorUse(
            name=name,
            layer=where[name].layer,
            type=where[name].type,
            kind=where[name].kind,
            elements=numel(store.manifest.tensors[name].shape),
            live=int(sums.usage[name].sum()),
            ones=dict(zip(having, sums.ones[name].tolist(), strict=True)),
            usage=sums.usage[name].tolist(),
        )
        for name, having in masked.items()
    ]
