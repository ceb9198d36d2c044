"""Reads the masks of a store, chunk by chunk, with the positions where they matter.

A multi-task model that is coded by `ulp`, the default, tells without the base where it differs from
the base, so the base is not read.

Legend: S = tasks that have a mask of a tensor, N = elements of a chunk, P = ceil(N / 8) bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from numpy.typing import NDArray

from taskstore.executors import Executor
from taskstore.format import layouts
from taskstore.format import names as filenames
from taskstore.format.container_files import ShardedReader
from taskstore.format.dtypes import ITEMSIZE, numel
from taskstore.format.section import Layout, SectionReader
from taskstore.format.tiers import BY_NAME
from taskstore.format.tiers.mask import moved
from taskstore.kernels import bits
from taskstore.store import Store

OPEN = 64  # tensors whose tables of sections are kept
Masked = Mapping[str, Sequence[str]]  # tensor -> the tasks that have a mask of it


def masked_tensors(store: Store) -> Masked:
    """Tensors with masks, in the manifest's order; none in a store without masks."""
    tasks = store.manifest.tasks.items()
    found = {
        name: [t for t, task in tasks if name in task.tensors and "mask" in task.tiers_of(name)]
        for name, tensor in store.manifest.tensors.items()
        if tensor.multitask is not None
    }
    return {name: having for name, having in found.items() if having}


def work_of(store: Store, name: str, tasks: int, n: int | None = None) -> int:
    """Bytes of weights and masks that are looked at for `n` elements of a tensor (None: all)."""
    tensor = store.manifest.tensors[name]
    n = numel(tensor.shape) if n is None else n
    return n * 2 * ITEMSIZE[tensor.dtype] + tasks * bits.packed_size(n)


@dataclass(frozen=True)
class MaskedChunk:
    """Chunk `k` of a tensor; `work` as `work_of` counts it."""

    name: str
    k: int
    work: int


@dataclass(frozen=True)
class MaskedTensor:
    """One tensor's open sections. `base` is None where nothing is coded given it."""

    dtype: str
    base: Callable[[int], NDArray[Any]] | None
    multitask: SectionReader
    masks: Sequence[SectionReader]

    def decode(self, k: int) -> tuple[bits.Bytes, list[bits.Bytes]]:
        """The positions of chunk `k` where W1 is not W0 (P,), and S masks (P,)."""
        if self.base is None:
            return bits.pack(self.multitask.moved(k)), [mask.chunk(k) for mask in self.masks]
        w0_N = self.base(k)
        w1_N = self.multitask.chunk(k, w0_N)
        some_guided = any(mask.guided for mask in self.masks)
        given_N = moved(w0_N, w1_N, self.dtype) if some_guided else None
        masks = [mask.chunk(k, given_N if mask.guided else None) for mask in self.masks]
        return bits.pack(w0_N != w1_N), masks


def chunks_of(store: Store, masked: Masked) -> Iterator[MaskedChunk]:
    """All chunks of these tensors."""
    for name, tasks in masked.items():
        layout = layouts.base_layout(store.manifest.tensors[name], store.manifest.chunk)
        for k in range(layout.chunks):
            yield MaskedChunk(name, k, work_of(store, name, len(tasks), layout.elements(k)))


def needs_base(store: Store, name: str, tasks: Sequence[str]) -> bool:
    """Whether a chunk is decoded given the base's; only `ulp` tells what moved without it."""
    codecs = {store.manifest.tasks[task].codec("mask", "bits") for task in tasks}
    return store.manifest.tensors[name].multitask != "ulp" or codecs != {"bits"}


@contextmanager
def open_tensors(
    store: Store, masked: Masked, executor: Executor
) -> Iterator[Callable[[str], MaskedTensor]]:
    """Open these tensors by name, their files meanwhile; thread-safe; raises BaseUnavailable."""
    manifest = store.manifest
    with ExitStack() as stack:

        def opened(stem: str, sections: Mapping[str, Layout]) -> ShardedReader:
            reader = ShardedReader(store.location, stem, manifest.files, sections)
            return stack.enter_context(closing(reader))

        given = {name for name, tasks in masked.items() if needs_base(store, name, tasks)}
        base = stack.enter_context(store.open_base(executor)) if given else None
        multitask = opened(filenames.MULTITASK, layouts.multitask_layouts(manifest))
        masks = {
            name: opened(
                filenames.stem_of("mask", manifest.folder(name)),
                BY_NAME["mask"].layouts(manifest, task),
            )
            for name, task in manifest.tasks.items()
            if any(name in tasks for tasks in masked.values())
        }

        @lru_cache(OPEN)
        def tensor(name: str) -> MaskedTensor:
            return MaskedTensor(
                manifest.tensors[name].dtype,
                base.chunks(name) if base and name in given else None,
                multitask.section(name),
                [masks[task].section(name) for task in masked[name]],
            )

        yield tensor
