"""The way out: read, decode, select.

A task's tensor is rebuilt chunk by chunk and tier by tier: decode W0, decode W1 given W0, take W1
where the mask is one, add the rest, step to the original. Chunks are independent, so threads work
ahead of whoever consumes them in order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from blake3 import blake3

from taskstore.errors import ChecksumMismatch
from taskstore.executors import ordered_map
from taskstore.format import layouts
from taskstore.format import names as filenames
from taskstore.format.container_files import ShardedReader
from taskstore.format.dtypes import numel
from taskstore.format.manifest import TIERS, Manifest, Task
from taskstore.format.section import SectionReader
from taskstore.kernels import cpu
from taskstore.rungs import moved, with_rest
from taskstore.store.base import BaseSource, Bits
from taskstore.store.catalog import Rebuilt, label_of, rebuilt_tensors, resolved, rungs

Chunk = Callable[[], Bits]


class ModelReader:
    """One model of a store: a task, or the base (`task` None). Opens only the files it needs."""

    def __init__(
        self,
        root: Path,
        manifest: Manifest,
        task: str | None,
        base: BaseSource,
        tier: str | None = None,
    ) -> None:
        """`tier`: one that the task has, None the best of them.

        Raises FormatError where those files break the format.
        """
        self._manifest, self._base, self._name, self._tier = manifest, base, task, tier
        self._task: Task | None = None if task is None else manifest.tasks[task]
        self._readers: dict[str, ShardedReader] = {}
        if self._task is not None and task is not None:
            wanted = {filenames.private_of(task): layouts.private_layouts(manifest, self._task)}
            tiers = {r for name in self._task.tensors for r in rungs(self._task, name, tier)}
            if "mask" in tiers:
                wanted[filenames.MULTITASK] = layouts.multitask_layouts(manifest)
                wanted[filenames.masks_of(task)] = layouts.mask_layouts(manifest, self._task)
            if "rest" in tiers:
                wanted[filenames.rest_of(task)] = layouts.rest_layouts(manifest, self._task)
            if "exact" in tiers:
                wanted[filenames.exact_of(task)] = layouts.exact_layouts(manifest, self._task)
            try:
                for stem, sections in wanted.items():
                    self._readers[stem] = ShardedReader(root, stem, manifest.files, sections)
            except BaseException:
                self.close()
                raise
        self.tensors = rebuilt_tensors(manifest, task, tier)

    def close(self) -> None:
        """Its own files; the base is its owner's to close."""
        for reader in self._readers.values():
            reader.close()
        self._readers = {}

    @property
    def label(self) -> str:
        return label_of(self._name)

    def chunks(self, name: str) -> Iterator[Chunk]:
        """The tensor's chunks in order, each a call that decodes it; calls are thread-safe."""
        if self._task is None or self._name is None:
            yield from self._base_chunks(name)
            return
        entry = self._task.tensors[name]
        if entry.of is not None:
            yield from self.chunks(entry.of)
        elif entry.kind == "base":
            yield from self._base_chunks(name)
        elif entry.kind in TIERS:
            yield from self._shared(self._task, self._name, name)
        grown = entry.kind in TIERS and entry.shape is not None
        if entry.kind == "private" or grown:
            yield from self._private(self._task, self._name, name)

    def chunk_sizes(self, name: str) -> list[int]:
        """Elements of each of the tensor's chunks, in the order of `chunks`."""
        n, chunk, base = numel(self.tensors[name].shape), self._manifest.chunk, 0
        if self._task is not None:
            of, entry = resolved(self._task, name)
            if entry.kind in TIERS and entry.shape is not None:
                base = numel(self._manifest.tensors[of].shape)
        parts = [base, n - base] if base else [n]
        return [min(chunk, part - at) for part in parts for at in range(0, part, chunk)]

    def _base_chunks(self, name: str) -> Iterator[Chunk]:
        tensor = self._manifest.tensors[name]
        chunk = self._base.chunks(tensor.alias or name)
        for k in range(layouts.base_layout(tensor, self._manifest.chunk).chunks):
            yield lambda k=k: chunk(k)  # type: ignore[misc]

    def _shared(self, task: Task, task_name: str, name: str) -> Iterator[Chunk]:
        """Tier by tier, each given what those below it rebuilt; at first the base's weights."""
        tensor, entry = self._manifest.tensors[name], task.tensors[name]
        dtype = entry.dtype or tensor.dtype
        base, guided = self._base.chunks(name), task.codec("mask", "bits") == "guided"
        multitask, mask, rest, exact = (
            self._readers[stem].section(name) if tier in rungs(task, name, self._tier) else None
            for tier, stem in (
                ("mask", filenames.MULTITASK),
                ("mask", filenames.masks_of(task_name)),
                ("rest", filenames.rest_of(task_name)),
                ("exact", filenames.exact_of(task_name)),
            )
        )

        def one(k: int) -> Bits:
            w_N = base(k)
            if multitask and mask:
                w1_N = multitask.chunk(k, w_N)
                given_N = moved(w_N, w1_N, tensor.dtype) if guided else None
                w_N = cpu.select(mask.chunk(k, given_N), w_N, w1_N)
            w_N = cpu.cast(w_N, tensor.dtype, dtype)
            if rest:
                w_N = with_rest(w_N, rest.quantised(k), dtype)
            return exact.chunk(k, w_N) if exact else w_N

        for k in range(layouts.base_layout(tensor, self._manifest.chunk).chunks):
            yield lambda k=k: one(k)  # type: ignore[misc]

    def _private(self, task: Task, task_name: str, name: str) -> Iterator[Chunk]:
        section: SectionReader = self._readers[filenames.private_of(task_name)].section(name)
        for k in range(layouts.private_layouts(self._manifest, task)[name].chunks):
            yield lambda k=k: section.chunk(k)  # type: ignore[misc]


def rebuild(
    reader: ModelReader, names: Iterable[str], jobs: int
) -> Iterator[tuple[Rebuilt, int, Bits]]:
    """(tensor, offset in bytes, bits) for each chunk of each tensor, in order.

    A tensor's checksum is compared after its last chunk, so nothing that came is good before
    the iterator has ended. Raises ChecksumMismatch.
    """

    def work() -> Iterator[tuple[Rebuilt, Chunk | None]]:
        for name in names:
            yield from ((reader.tensors[name], chunk) for chunk in reader.chunks(name))
            yield reader.tensors[name], None

    def run(item: tuple[Rebuilt, Chunk | None]) -> tuple[Rebuilt, Bits | None]:
        tensor, chunk = item
        return tensor, None if chunk is None else chunk()

    state, offset = blake3(), 0
    for tensor, bits_N in ordered_map(run, work(), jobs=jobs):
        if bits_N is not None:
            state.update(bits_N.view("u1"))
            yield tensor, offset, bits_N
            offset += bits_N.nbytes
            continue
        if state.hexdigest() != tensor.blake3 or offset != tensor.nbytes:
            what = f"tensor {tensor.name!r} of {reader.label}"
            raise ChecksumMismatch(what, tensor.blake3, state.hexdigest())
        state, offset = blake3(), 0


def rebuilt_blocks(
    reader: ModelReader, names: Iterable[str], jobs: int
) -> Iterator[tuple[str, Bits]]:
    """(tensor's name, bits) for each chunk, in order; see `rebuild`."""
    return ((tensor.name, bits_N) for tensor, _, bits_N in rebuild(reader, names, jobs))
