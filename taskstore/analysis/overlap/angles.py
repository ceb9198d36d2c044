"""Says how long a store's task vectors are, and the angles between them.

They were measured on the fine-tunes while the store was packed. A store without them is measured
now, on rebuilt tasks whose best tier is `exact` or `rest`. Masks are left out: all of them select
from one multi-task vector, so what they rebuild points the same way where the fine-tunes do not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from taskstore.analysis.overlap.result import Angles
from taskstore.executors import Executor
from taskstore.format.dtypes import nbytes
from taskstore.format.manifest import Vectors
from taskstore.merging import similarity
from taskstore.merging.similarity import F64, Gram
from taskstore.merging.task_vectors import Block, blocks, read
from taskstore.models.family import Family
from taskstore.progress import Meter
from taskstore.store import Store
from taskstore.store.as_checkpoint import open_family


def angles_of(store: Store, executor: Executor, meter: Meter) -> Angles | None:
    """Return what was recorded, else measure it; None where neither can be.

    Raises NotFinite, BaseUnavailable.
    """
    recorded = store.manifest.vectors
    if recorded is not None:
        return _angles(recorded, dict.fromkeys(store.tasks, "fine-tune"))
    told = _told(store)
    if not told:
        return None
    meter.stage("rebuilding", "vectors")
    gram, shared = Gram(len(told)), _shared(store, told)
    with open_family(store, told, executor) as family:
        every = (
            block
            for name, rows in shared.items()
            for block in blocks(name, family.base.tensors[name], rows, store.manifest.chunk)
        )
        for block, products_SS in executor.map(_products, family, every):
            gram.add(block.tasks, products_SS)
            size = nbytes(block.info.dtype, (block.stop - block.start,))
            meter.add(block.name, size * (1 + len(block.tasks)))
        family.prove()
    return _angles(gram.vectors(told, 1), {task: store.tiers(task)[-1] for task in told})


def _products(family: Family, block: Block) -> tuple[Block, F64]:
    return block, similarity.of_vectors(read(family, block).tau_SN, 1)


def work_of(store: Store) -> int:
    """Bytes of weights that `angles_of` reports."""
    tensors, told = store.manifest.tensors, _told(store)
    return sum(
        nbytes(tensors[name].dtype, tensors[name].shape) * (1 + len(rows))
        for name, rows in _shared(store, told).items()
        if store.manifest.vectors is None
    )


def _told(store: Store) -> list[str]:
    """Tasks whose rebuilt vectors say something of the fine-tunes'."""
    return [task for task in store.tasks if store.tiers(task)[-1:] not in ([], ["mask"])]


def _shared(store: Store, told: Sequence[str]) -> Mapping[str, list[int]]:
    """Tensors that some task has in a tier -> the numbers of those tasks."""
    tasks = [store.manifest.tasks[task] for task in told]
    found = {
        name: [i for i, task in enumerate(tasks) if name in task.tensors and task.tiers_of(name)]
        for name in store.manifest.tensors
    }
    return {name: rows for name, rows in found.items() if rows}


def _angles(found: Vectors, of: Mapping[str, str]) -> Angles:
    tasks = range(len(found.norms))
    lower = [[*row, 1.0 if norm else None] for row, norm in
             zip(found.cosines, found.norms.values(), strict=True)]  # fmt: skip
    cosines = [[lower[max(i, j)][min(i, j)] for j in tasks] for i in tasks]
    return Angles(dict(of), dict(found.norms), cosines, found.share)
