"""Rebuild the tensors of one model, chunk by chunk.

A chunk starts with the base's weights; each tier of the task then rebuilds what it keeps from what
is below it (`format/tiers`). Chunks are independent: `blocks` has them decoded ahead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property, lru_cache

from taskstore.errors import ChecksumMismatch
from taskstore.format import layouts, names, tiers
from taskstore.format.container_files import ShardedReader
from taskstore.format.dtypes import numel
from taskstore.format.manifest import TIERS, Manifest, Task
from taskstore.format.rules import lineage
from taskstore.format.section import Layout
from taskstore.kernels import cpu
from taskstore.locations.base import Location
from taskstore.models.readers.stored_adapter import Adapted
from taskstore.store.base import BaseSource, Bits
from taskstore.store.catalog import (
    Rebuilt,
    label_of,
    own_tensors,
    rebuilt_tensors,
    resolved,
    tiers_up_to,
)

Part = tuple[int, Callable[[int], Bits]]  # chunks, and how one of them is decoded
OPEN = 64  # tensors whose sections are open


class ModelReader:
    """One model of a store: a task, or the base (`task` None). Opens only the files it needs."""

    def __init__(
        self,
        location: Location,
        manifest: Manifest,
        task: str | None,
        base: BaseSource,
        tier: str | None = None,
    ) -> None:
        """Open a model; `tier` is one that the task has, None the best of them.

        Raises FormatError where those files break the format.
        """
        self._manifest, self._base, self._name, self._tier = manifest, base, task, tier
        self._task: Task | None = None if task is None else manifest.tasks[task]
        self._folder = "" if task is None else manifest.folder(task)
        self._private_stem = names.private_of(self._folder)
        self._adapter_stem = names.adapter_of(self._folder)
        self._readers: dict[str, ShardedReader] = {}
        self._parts = lru_cache(OPEN)(self._open)
        try:
            for stem, sections in self._files().items():
                self._readers[stem] = ShardedReader(location, stem, manifest.files, sections)
        except BaseException:
            self.close()
            raise
        self.adapted: Adapted | None = None
        if self._task is not None and self._task.adapter is not None:
            own, chunk = self._readers[self._adapter_stem], manifest.chunk
            self.adapted = Adapted(self._task, own, chunk, lambda name: self._of_base(name)[1])
        self.saved = (self._task.names if self._task else None) or {}

    def close(self) -> None:
        """Close its own files; the base is its owner's to close."""
        for reader in self._readers.values():
            reader.close()
        self._readers = {}

    @property
    def label(self) -> str:
        return label_of(self._name)

    @cached_property
    def tensors(self) -> dict[str, Rebuilt]:
        """List the tensors as they are rebuilt."""
        return rebuilt_tensors(self._manifest, self._name, self._tier)

    @cached_property
    def own_tensors(self) -> dict[str, Rebuilt]:
        """List the tensors as the model's own files name and cut them."""
        return own_tensors(self._manifest, self._name)

    def chunk_count(self, name: str) -> int:
        """Count the chunks of a tensor, and open its sections: that proves the size it claims."""
        return sum(count for count, _ in self._parts(name))

    def chunk(self, name: str, k: int) -> Bits:
        """Decode chunk `k` of a tensor; thread-safe."""
        for count, decoded in self._parts(name):
            if k < count:
                return decoded(k)
            k -= count
        raise IndexError(f"{name!r} has no chunk {k}")

    def head(self, name: str, k: int, n: int) -> Bits:
        """Decode the first `n` elements of chunk `k`, alone where its codec can; unchecked."""
        task = self._task
        if task and task.tensors[name].kind == "exact" and k < self._of_base(name)[0]:
            section = self._readers[names.stem_of("exact", self._folder)].section(name)
            alone = not lineage.has_parents(self._manifest.tasks, task, name)
            if alone and section.codec == "deltas":
                dtype, below = self._manifest.tensors[name].dtype, self._of_base(name)[1]
                w0_N = cpu.cast(below(k)[:n], dtype, task.tensors[name].dtype or dtype)
                return section.head(k, w0_N)
        return self.chunk(name, k)[:n]

    def sources(self, name: str) -> list[str]:
        """List the files that a tensor is rebuilt from."""
        if self._task is None or self._name is None:
            return self._sources_of_base(name)
        of, entry = resolved(self._task, name)
        if entry.kind == "private":
            return [self._readers[self._private_stem].path(of)]
        if entry.kind == "adapted" and entry.made is not None:
            made = entry.made
            parts = [p for p in (made.saved, made.a, made.b, made.vector, made.tokens) if p]
            start = [] if made.saved else self._sources_of_base(made.base or of)
            return [*start, *{self._readers[self._adapter_stem].path(p): None for p in parts}]
        own = [reader.path(of) for reader in self._readers.values() if reader.holds(of)]
        return [self._base.place(self._manifest.tensors[of].alias or of), *own]

    def _sources_of_base(self, name: str) -> list[str]:
        return [self._base.place(self._manifest.tensors[name].alias or name)]

    def check(self, tensor: Rebuilt, nbytes: int, found: str) -> None:
        """Raise ChecksumMismatch unless a rebuilt tensor has its size and its checksum."""
        if found != tensor.blake3 or nbytes != tensor.nbytes:
            what = f"tensor {tensor.name!r} of {self.label}"
            raise ChecksumMismatch(what, tensor.blake3, found, self.sources(tensor.name))

    def chunk_sizes(self, name: str) -> list[int]:
        """Count the elements of each of the tensor's chunks."""
        n, chunk, base = numel(self.tensors[name].shape), self._manifest.chunk, 0
        if self._task is not None:
            of, entry = resolved(self._task, name)
            if entry.kind in TIERS and entry.shape is not None:
                base = min(n, numel(self._manifest.tensors[of].shape))
        parts = [base, n - base] if base else [n]
        return [min(chunk, part - at) for part in parts for at in range(0, part, chunk)]

    def elements(self, name: str, start: int, stop: int) -> Iterator[Bits]:
        """Decode elements [start, stop) of a tensor, in pieces; nothing is checked."""
        at = 0
        for k, size in enumerate(self.chunk_sizes(name)):
            if at < stop and at + size > start:
                yield self.chunk(name, k)[max(0, start - at) : stop - at]
            at += size

    def _files(self) -> dict[str, Mapping[str, Layout]]:
        """Return stem -> sections of the files that the model needs beside the base's."""
        if self._task is None or self._name is None:
            return {}
        self._private_rows = layouts.private_layouts(self._manifest, self._task)
        found: dict[str, Mapping[str, Layout]] = {self._private_stem: self._private_rows}
        if self._task.adapter is not None:
            found[self._adapter_stem] = layouts.adapter_layouts(self._manifest, self._task)
        needed = {t for n in self._task.tensors for t in tiers_up_to(self._task, n, self._tier)}
        read = [(self._name, tier) for tier in TIERS if tier in needed]
        if "exact" in needed:
            for parent in lineage.parents(self._manifest.tasks, self._name):
                read += [(parent, tier) for tier in self._manifest.tasks[parent].all_tiers]
        for task, tier in read:
            found |= tiers.BY_NAME[tier].files(self._manifest, task)
        return found

    def _open(self, name: str) -> tuple[Part, ...]:
        """Open a tensor: the base's rows, then those that only the task has."""
        if self._task is None or self._name is None:
            return (self._of_base(name),)
        entry = self._task.tensors[name]
        if entry.of is not None:
            return self._open(entry.of)
        if entry.kind == "base":
            return (self._of_base(name),)
        if entry.kind == "private":
            return (self._private(self._task, name),)
        if entry.kind == "adapted":
            assert self.adapted is not None
            return (self.adapted.part(name),)
        shared = self._shared(self._task, name)
        if name not in self._private_rows:
            return (shared,)
        return shared, self._private(self._task, name)

    def _of_base(self, name: str) -> Part:
        tensor = self._manifest.tensors[name]
        count = layouts.base_layout(tensor, self._manifest.chunk).chunks
        return count, self._base.chunks(tensor.alias or name)

    def _shared(self, task: Task, name: str) -> Part:
        """Chain the tiers: each is given what those below it rebuilt, the first the base.

        Of a task with a parent they are those of the first task of its chain, which the others
        follow.
        """
        tensor, used = self._manifest.tensors[name], tiers_up_to(task, name, self._tier)
        exact = used[-1:] == ("exact",)
        assert self._name is not None
        all_tasks = self._manifest.tasks
        chain = lineage.of_tensor(all_tasks, self._name, name) if exact else [self._name]
        if len(chain) > 1:
            used = all_tasks[chain[0]].tiers_of(name)[:-1]

        def spot(of: str) -> tiers.Spot:
            dtype, folder = all_tasks[of].tensors[name].dtype, self._manifest.folder(of)
            return tiers.Spot(
                folder, name, dtype or tensor.dtype, lambda stem: self._readers[stem].section(name)
            )

        start = spot(chain[0])
        steps = [tiers.BY_NAME[tier].step(start) for tier in used]
        along = tiers.along([spot(of) for of in chain]) if len(chain) > 1 else None
        count, base = self._of_base(name)
        n, chunk = numel(self.tensors[name].shape), self._manifest.chunk

        def decoded(k: int) -> Bits:
            w0_N = base(k)
            w_N, below = w0_N, tensor.dtype
            for step in steps:
                w_N, below = step(k, w_N, below), start.dtype
            if along is not None:
                w_N = along(k, (w_N, below), (w0_N, tensor.dtype))
            return w_N[: n - k * chunk]  # fewer where a vocabulary was cut

        return min(count, -(-n // chunk)), decoded

    def _private(self, task: Task, name: str) -> Part:
        count = layouts.private_layouts(self._manifest, task)[name].chunks
        return count, self._readers[self._private_stem].section(name).chunk
