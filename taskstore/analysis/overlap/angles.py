"""Measures the lengths of a store's rebuilt task vectors and the angles between them.

tau_t = theta_t - theta_0 in float32 with each task's best tier, tau_MTL = F32(W1) - theta_0. Their
inner products add up in float64, block by block, in one Gram matrix: |a| = sqrt(G_aa) and
cos(a, b) = G_ab / (|a| |b|). A tensor that a task lacks, or has only privately, counts as zero.

Legend: T = tasks, V = T + 1 vectors, the last tau_MTL, S = tasks that have a tensor, N = elements.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing, nullcontext

import numpy as np
from numpy.typing import NDArray

from taskstore.analysis.overlap.result import Angles
from taskstore.executors import Executor
from taskstore.format import layouts
from taskstore.format import names as filenames
from taskstore.format.container_files import ShardedReader
from taskstore.format.dtypes import nbytes
from taskstore.kernels import cpu
from taskstore.merging.task_vectors import Block, blocks, read
from taskstore.models.family import Family
from taskstore.progress import Meter
from taskstore.store import Store
from taskstore.store.as_checkpoint import open_family

F64 = NDArray[np.float64]
STEP = 1 << 15  # elements that are widened at a time, to stay in the cache


def angles_of(store: Store, executor: Executor, meter: Meter) -> Angles:
    """Rebuild all tasks in one pass; raises NotFinite, BaseUnavailable."""
    tasks, shared = store.tasks, _shared(store)
    gram_VV = np.zeros((len(tasks) + 1, len(tasks) + 1))
    meter.stage("rebuilding", "vectors")
    with open_family(store, tasks, executor) as family, _multitask(store) as multitask:
        every = (
            block
            for name, rows in shared.items()
            for block in blocks(name, family.base.tensors[name], rows, store.manifest.chunk)
        )
        for block, part in executor.map(_products, (store, family, multitask), every):
            rows = [*block.tasks, len(tasks)][: len(part)]
            gram_VV[np.ix_(rows, rows)] += part
            size = nbytes(block.info.dtype, (block.stop - block.start,))
            meter.add(block.name, size * (1 + len(block.tasks)))
        family.prove()
    return _angles(store, gram_VV, multitask is not None)


def _products(
    opened: tuple[Store, Family, ShardedReader | None], block: Block
) -> tuple[Block, F64]:
    """Inner products of a block's vectors, (S, S), or (S + 1, S + 1) with tau_MTL."""
    store, family, multitask = opened
    weights = read(family, block)
    vectors = [*weights.tau_SN]
    if multitask and store.manifest.tensors[block.name].multitask:
        w1_N = multitask.section(block.name).chunk(block.k, weights.w0_N)
        vectors.append(np.empty(w1_N.size, np.float32))
        cpu.task_vector(w1_N, block.info.dtype, weights.theta0_N, vectors[-1])
    return block, _gram(vectors)


def work_of(store: Store) -> int:
    """Bytes of weights that `angles_of` reports."""
    tensors = store.manifest.tensors
    return sum(
        nbytes(tensors[name].dtype, tensors[name].shape) * (1 + len(rows))
        for name, rows in _shared(store).items()
    )


def _shared(store: Store) -> Mapping[str, list[int]]:
    """Tensors that some task has in a tier -> the numbers of those tasks."""
    tasks = list(store.manifest.tasks.values())
    found = {
        name: [i for i, task in enumerate(tasks) if name in task.tensors and task.tiers_of(name)]
        for name in store.manifest.tensors
    }
    return {name: rows for name, rows in found.items() if rows}


def _multitask(store: Store) -> closing[ShardedReader] | nullcontext[None]:
    sections = layouts.multitask_layouts(store.manifest)
    if not sections:
        return nullcontext()
    files = store.manifest.files
    return closing(ShardedReader(store.location, filenames.MULTITASK, files, sections))


def _gram(vectors: list[NDArray[np.float32]]) -> F64:
    total = np.zeros((len(vectors), len(vectors)))
    for start in range(0, vectors[0].size, STEP):
        wide = np.array([v[start : start + STEP] for v in vectors], np.float64)
        total += wide @ wide.T
    return total


def _angles(store: Store, gram_VV: F64, merged: bool) -> Angles:
    norms_V = np.sqrt(gram_VV.diagonal())
    cosines = [
        [_cosine(gram_VV[a, b], norms_V[a] * norms_V[b]) for b in range(len(norms_V))]
        for a in range(len(norms_V))
    ]
    return Angles(
        tiers={task: (store.tiers(task) or ["base"])[-1] for task in store.tasks},
        norms=dict(zip(store.tasks, norms_V.tolist(), strict=False)),
        cosines=[row[:-1] for row in cosines[:-1]],
        multitask_norm=float(norms_V[-1]) if merged else None,
        multitask_cosines=cosines[-1][:-1] if merged else None,
    )


def _cosine(product: float, lengths: float) -> float | None:
    return max(-1.0, min(1.0, float(product / lengths))) if lengths else None
