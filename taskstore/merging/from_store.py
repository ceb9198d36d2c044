"""Merge the tasks of a store.

If the store's own multi-task vector is what is asked for, it is taken as it stands: `consensus`
counts the store's masks (k of them must want a weight; arXiv 2405.07813), and a store that was
packed by `sum` merges by `sum` without its tasks. All other methods merge the models that the store
rebuilds, each at its best tier: the same as the fine-tune at tier exact, else an approximation.

No checksum is that of the multi-task model. It is proved where a mask selects it, by the tasks' own
checksums at tier mask; elsewhere by that of its file alone.

Legend: N = elements of a chunk.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskstore.executors import threads
from taskstore.format import layouts, names, tiers
from taskstore.format.container_files import ShardedReader
from taskstore.format.section import Layout
from taskstore.format.tiers.mask import moved
from taskstore.kernels import bits, cpu, floats
from taskstore.locations.base import PathLike
from taskstore.merging.driver import check_target, merge_family
from taskstore.merging.methods import F32, Info, Method, Vectors, registry
from taskstore.merging.options import MergeOptions
from taskstore.merging.report import MergeReport
from taskstore.merging.scratch import KeptVector
from taskstore.merging.task_vectors import Block, Source, read
from taskstore.models.family import Family
from taskstore.progress import Callback, silent
from taskstore.store import Store, as_checkpoint
from taskstore.store.base import BaseSource, ReferencedBase
from taskstore.store.proof import Proof


def merge_store(
    store: Store,
    target: Path,
    options: MergeOptions,
    tasks: list[str] | None = None,
    progress: Callback = silent,
    section: str = "",
    kept: KeptVector | None = None,
) -> MergeReport:
    """Write one merged model of a store's tasks (None: all) to the folder `target`.

    Every file of the store is checked first; `section` is the end of the model card. Raises
    InputError, UnknownTask, FormatError and OutputError.
    """
    chosen = list(store.tasks) if tasks is None else tasks
    for task in chosen:
        store.check_task(task)
    check_target(target, options, inputs(store))
    executor = threads(options.jobs)
    store.check_files(store.manifest.files, executor)
    with ExitStack() as stack:
        family = stack.enter_context(as_checkpoint.open_family(store, chosen, executor, target))
        options = replace(options, unrelated=True, chunk=store.manifest.chunk)
        source = None
        best = sorted({store.manifest.tasks[task].all_tiers[-1] for task in chosen})
        found = {task: store.fidelity(task) for task in chosen}
        near = [f"{task} {how.words}" for task, how in found.items() if how.kind != "exact"]
        note = ": ".join(
            [
                f"merged from the models that it rebuilds (tier {', '.join(best)})",
                *(["; ".join(near)] if near else []),
            ]
        )
        if _as_it_stands(store, options, chosen):
            base = (
                stack.enter_context(store.open_base(executor))
                if store.manifest.base.carried
                else ReferencedBase(family.base, store.manifest.chunk)
            )
            vector = stack.enter_context(closing(StoredVector(store, base, chosen, options)))
            source = StoredSource(family, vector, options.chunk)
            note = f"merged from its own multi-task model (merged by {store.manifest.merge.method})"
        notes = {store.name: note}
        return merge_family(family, target, options, progress, source, notes, section, kept)


def inputs(store: Store) -> list[PathLike]:
    """The paths that a merge of the store reads: the store, and a base that it only references."""
    base = store.manifest.base
    where = store.base_path or (base.source if base.revision is None else None)
    return [store.where] if base.carried or where is None else [store.where, where]


def _as_it_stands(store: Store, options: MergeOptions, tasks: list[str]) -> bool:
    """Whether the store's own multi-task model is what the options ask for."""
    recorded = store.manifest.merge
    masks = all("mask" in store.manifest.tasks[task].all_tiers for task in tasks)
    made = registry.split(options.method)
    if options.weights or options.layer_weights or not masks:
        return False
    if made.after == ("consensus",):
        below = "+".join((*made.before, made.method))
        own = "+" not in options.method or below == recorded.method
        return own and set(options.method_options) <= {"k"}
    same = {**recorded.options, **options.method_options} == dict(recorded.options)
    return options.method == recorded.method and same and set(tasks) == set(store.tasks)


class StoredVector(Method):
    """W1 - W0, read from the store: everywhere, or where at least k masks are one."""

    INFO = Info("The store's multi-task vector", "", "")

    def __init__(
        self, store: Store, base: BaseSource, tasks: list[str], options: MergeOptions
    ) -> None:
        self.options = {k: v for k, v in options.made().options.items() if k == "k"}
        self._least = int(self.options.get("k", 0))
        self._manifest, self._executor = store.manifest, threads(options.jobs)
        files = store.manifest.files
        wanted: dict[str, Mapping[str, Layout]] = {
            names.MULTITASK: layouts.multitask_layouts(store.manifest)
        }
        for name in tasks:
            wanted |= tiers.BY_NAME["mask"].files(store.manifest, name)
        with ExitStack() as stack:
            self._readers = {
                stem: stack.enter_context(
                    closing(ShardedReader(store.location, stem, files, layout))
                )
                for stem, layout in wanted.items()
            }
            self._proofs = {
                name: Proof(stack.enter_context(store.reader(name, base, "mask")), 2 * options.jobs)
                for name in tasks
            }
            self.close = stack.pop_all().close

    def merge(self, block: Vectors) -> F32:
        k = block.start // self._manifest.chunk
        w1_N = self._readers[names.MULTITASK].section(block.tensor).chunk(k, block.w0_N)
        vector_N: F32 = floats.to_float32(w1_N, block.dtype) - block.theta0_N
        counts_N = self._counts(block, k, w1_N)
        if self._least:
            vector_N[counts_N < self._least] = 0
        return vector_N

    def _counts(self, block: Vectors, k: int, w1_N: NDArray[Any]) -> NDArray[np.uint16]:
        """The number of masks that want each weight, uint16 (N,); what they select is proved."""
        counts_N = np.zeros(block.w0_N.size, np.uint16)
        for name, proof in self._proofs.items():
            entry = self._manifest.tasks[name].tensors.get(block.tensor)
            if entry is None or entry.kind != "mask":
                continue
            stem = names.stem_of("mask", self._manifest.folder(name))
            mask = self._readers[stem].section(block.tensor)
            given_N = moved(block.w0_N, w1_N, block.dtype) if mask.guided else None
            bits_P = mask.chunk(k, given_N)
            if self._least:
                counts_N += bits.unpack(bits_P, counts_N.size)
            chosen_N = cpu.select(bits_P, block.w0_N, w1_N)
            proof.add(block.tensor, k, cpu.cast(chosen_N, block.dtype, entry.dtype or block.dtype))
        return counts_N

    def prove(self) -> None:
        """Raise ChecksumMismatch unless masks and W1 give the recorded tensors."""
        for proof in self._proofs.values():
            proof.finish(self._executor)


class StoredSource(Source):
    """Blocks without the tasks' vectors, which the method does not need."""

    def __init__(self, family: Family, vector: StoredVector, chunk: int) -> None:
        super().__init__(family, vector, chunk)
        self._vector = vector

    def block(self, block: Block) -> Vectors:
        return read(self.family, replace(block, tasks=()))

    def prove(self) -> None:
        super().prove()
        self._vector.prove()
