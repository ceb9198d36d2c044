"""The base and the multi-task model of a store, for fine-tunes that join it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskstore.errors import InputError
from taskstore.executors import Executor
from taskstore.format import layouts, names
from taskstore.format.container_files import ShardedReader
from taskstore.format.fidelity import of_sums
from taskstore.format.manifest import Sums
from taskstore.kernels import cpu, floats
from taskstore.kernels.products import four_sums
from taskstore.kernels.tall import tall
from taskstore.locations.base import PathLike
from taskstore.merging.methods import registry
from taskstore.merging.task_vectors import blocks
from taskstore.models.family import Family, open_finetune
from taskstore.packing import plan as planning
from taskstore.packing.options import PackOptions
from taskstore.store import Store
from taskstore.store.as_checkpoint import open_family, opened_again

SAMPLED = 64  # blocks on which masks are measured before they are made


class StoredMultitask:
    """W1 as the store rebuilds it."""

    def __init__(self, store: Store) -> None:
        manifest = store.manifest
        tensors = manifest.tensors.items()
        self.codecs: Mapping[str, str] = {n: t.multitask for n, t in tensors if t.multitask}
        self.one_sided = _one_sided(store)
        self._sections = layouts.multitask_layouts(manifest)
        self._reader = ShardedReader(
            store.location, names.MULTITASK, manifest.files, self._sections
        )

    def chunk(self, name: str, k: int, w0_N: NDArray[Any]) -> NDArray[Any]:
        return self._reader.section(name).chunk(k, w0_N)

    def close(self) -> None:
        self._reader.close()


def _one_sided(store: Store) -> bool:
    """Tell whether the store's masks only select what moves a weight as the task does."""
    merge = store.manifest.merge
    try:
        return bool(registry.make(merge.method, merge.options).one_sided)
    except InputError:  # of a newer taskstore
        return False


@contextmanager
def joined(
    store: Store,
    finetunes: Mapping[str, PathLike],
    masked: bool,
    beside: Sequence[str],
    executor: Executor,
) -> Iterator[Family]:
    """Open the base of a store and fine-tunes that join it, and just those of its tasks `beside`.

    What is read of the base is trusted once `Family.prove` has returned. Raises InputError where
    masks are wanted of a store without a multi-task model.
    """
    with ExitStack() as stack:
        family = stack.enter_context(open_family(store, list(beside), executor, store.path))
        multitask = None
        if masked:
            if not any(t.multitask for t in store.manifest.tensors.values()):
                raise InputError(
                    f"{store.where} has no multi-task model that a mask could select from; take "
                    'tiers="rest" or tiers="exact"'
                )
            paths = names.of_stem(names.MULTITASK, store.manifest.files)
            store.check_files(paths, executor)  # its tensors have no checksums of their own
            multitask = stack.enter_context(closing(StoredMultitask(store)))
        base = replace(family.base, source=family.base.source or store.manifest.base.name)
        tasks = [
            stack.enter_context(closing(open_finetune(base, path, name)))
            for name, path in sorted(finetunes.items())
        ]
        aliases = {n: t.alias for n, t in store.manifest.tensors.items() if t.alias}
        every = sorted((*family.tasks, *tasks), key=lambda task: task.name)
        where = {n: task.where for n, task in zip(sorted(finetunes), tasks, strict=True)}
        again = opened_again, (joined, store, where, masked, beside)
        yield Family(base, tuple(every), aliases, multitask, again=again)


def errors_of_masks(family: Family, lam: float, chunk: int, executor: Executor) -> dict[str, float]:
    """Measure on a sample of blocks how far from their fine-tunes masks alone would be.

    Returns the error of each task that has a mask, as `format.fidelity` defines it.
    """
    plan = planning.make(family, PackOptions(tiers="mask", keep_private=True))
    every = [
        block
        for name, info in sorted(family.base.tensors.items())
        if name not in plan.aliases
        for block in blocks(name, info, plan.tasks_of(name, "mask"), chunk)
        if block.tasks
    ]
    step = max(1, -(-len(every) // SAMPLED))
    sums: dict[str, NDArray[Any]] = {}
    for found in executor.map(_measured, (family, lam), every[step // 2 :: step]):
        for task, four in found.items():
            sums[task] = sums.get(task, np.zeros(4)) + four
    return {task: of_sums(Sums.of(four.tolist())).error or 0.0 for task, four in sums.items()}


def _measured(shared: tuple[Family, float], block: Any) -> dict[str, NDArray[Any]]:
    """Return the four sums of a block, by task."""
    (family, lam), dtype = shared, block.info.dtype
    given = family.multitask
    assert given is not None
    w0_N = family.base.read(block.name, block.start, block.stop)
    w1_N, found = given.chunk(block.name, block.k, w0_N), {}
    merged_N = floats.to_float32(w1_N, dtype) - floats.to_float32(w0_N, dtype)
    for t in block.tasks:
        task = family.tasks[t]
        own = task.tensors[block.name]
        rows = min(block.stop, own.numel) - block.start
        if rows <= 0:
            continue
        theta_N = task.read(block.name, block.start, block.start + rows)
        base, w1, merged = w0_N[:rows], w1_N[:rows], merged_N[:rows]
        theta0_N, tau_N = cpu.task_vector_of(theta_N, own.dtype, base, dtype)
        _, chosen_N = tall(tau_N, merged, base, w1, lam, given.one_sided)
        rebuilt_N = cpu.cast(chosen_N, dtype, own.dtype)
        found[task.name] = four_sums(theta0_N, tau_N, rebuilt_N, own.dtype)
    return found
