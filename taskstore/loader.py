"""The way out: read, decode, select.

A task's tensor is rebuilt chunk by chunk and tier by tier: decode W0, decode W1 given W0, take W1
where the mask is one, add the rest, step to the original. Chunks are independent, so threads work
ahead of whoever consumes them in order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from blake3 import blake3
from numpy.typing import NDArray

from taskstore.checkpoint import Checkpoint
from taskstore.errors import ChecksumMismatch, InputError
from taskstore.executors import ordered_map
from taskstore.format import layouts
from taskstore.format import names as filenames
from taskstore.format.container_files import ShardedReader
from taskstore.format.dtypes import ITEMSIZE, numel
from taskstore.format.manifest import TIERS, Manifest, Task, TaskTensor
from taskstore.format.section import SectionReader
from taskstore.kernels import cpu
from taskstore.rungs import moved, with_rest

Bits = NDArray[Any]
Chunk = Callable[[], Bits]


@dataclass(frozen=True)
class Rebuilt:
    """What a rebuilt tensor will be: safetensors dtype, shape, checksum of its bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    blake3: str

    @property
    def nbytes(self) -> int:
        return numel(self.shape) * ITEMSIZE[self.dtype]


def label_of(task: str | None) -> str:
    """A model in words; None is the base."""
    return "the base" if task is None else f"task {task!r}"


def resolved(task: Task, name: str) -> tuple[str, TaskTensor]:
    """The tensor that a tensor of a task stands for, if it is an alias; else itself."""
    of = task.tensors[name].of or name
    return of, task.tensors[of]


def check_tier(manifest: Manifest, task: str | None, tier: str | None) -> None:
    """Raise InputError where a task does not have that tier; the base needs none."""
    if task is None or tier is None:
        return
    there = manifest.tasks[task].all_tiers
    if tier not in there:
        raise InputError(
            f"task {task!r} has no tier {tier!r}; it has {' and '.join(there) or 'none'}"
        )


def rungs(task: Task, name: str, tier: str | None) -> tuple[str, ...]:
    """Tiers that rebuild a tensor of a task, up to `tier` (None: all that it has)."""
    every = task.rungs(name)
    return every if tier is None else tuple(r for r in every if TIERS.index(r) <= TIERS.index(tier))


def rebuilt_tensors(
    manifest: Manifest, task: str | None, tier: str | None = None
) -> dict[str, Rebuilt]:
    """The tensors of a task, or of the base (None), by name; None is the best tier it has."""
    base = manifest.tensors
    if task is None:
        return {n: Rebuilt(n, t.dtype, tuple(t.shape), t.blake3) for n, t in base.items()}
    found = {}
    for name in manifest.tasks[task].tensors:
        of, source = resolved(manifest.tasks[task], name)
        inherited = base.get(of)
        dtype = source.dtype or (inherited.dtype if inherited else "")
        shape = source.shape if source.shape is not None else (inherited.shape if inherited else [])
        digests = [*(source.lower or ()), source.blake3]
        blake3 = digests[max(0, len(rungs(manifest.tasks[task], of, tier)) - 1)]
        found[name] = Rebuilt(name, dtype, tuple(shape), blake3)
    return found


class BaseSource(Protocol):
    """Where the base's bits come from: the store, or the checkpoint that it references."""

    def chunks(self, name: str) -> Callable[[int], Bits]:
        """chunk number -> bits (N,), for a tensor that is no alias."""

    @property
    def assets(self) -> Mapping[str, Path]:
        """Files beside a referenced base's weights; a carried base's are in the store."""

    def close(self) -> None:
        """Release what is open."""


class CarriedBase:
    """The base as the store carries it."""

    def __init__(self, root: Path, manifest: Manifest) -> None:
        self._reader = ShardedReader(
            root, filenames.BASE, manifest.files, layouts.base_layouts(manifest)
        )
        self.assets: Mapping[str, Path] = {}

    def chunks(self, name: str) -> Callable[[int], Bits]:
        return self._reader.section(name).chunk

    def close(self) -> None:
        self._reader.close()


class ReferencedBase:
    """The base in its own folder; `reference.open_base` has checked that it is the right one."""

    def __init__(self, checkpoint: Checkpoint, chunk: int) -> None:
        self.checkpoint, self._chunk = checkpoint, chunk
        self.assets = checkpoint.assets

    def chunks(self, name: str) -> Callable[[int], Bits]:
        n = self.checkpoint.tensors[name].numel

        def read(k: int) -> Bits:
            return self.checkpoint.read(name, k * self._chunk, min((k + 1) * self._chunk, n))

        return read

    def close(self) -> None:
        self.checkpoint.close()


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
        """`tier` None: the best that the task has.

        Raises FormatError where those files break the format, InputError where the task does not
        have that tier.
        """
        check_tier(manifest, task, tier)
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
