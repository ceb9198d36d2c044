"""D, masks and own contents of a family, streamed from its store into memory on a device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from taskstore.executors import ordered_map, threads
from taskstore.format import layouts
from taskstore.format import names as filenames
from taskstore.format.container_files import ShardedReader
from taskstore.format.manifest import Manifest
from taskstore.format.tiers import BY_NAME
from taskstore.format.tiers.mask import moved
from taskstore.kernels.quantise import Quantised
from taskstore.locations.base import Location
from taskstore.store.base import BaseSource
from taskstore.store.rebuild import ModelReader, rebuild
from taskstore.store.to_torch import copy_in

Bits = NDArray[Any]
Report = Callable[[str, int], None]
Target = tuple[str, Tensor]  # name of a tensor in the store, uint8 memory for it


class Source:
    """Reads of one store for one `attach`; chunks are decoded ahead in `jobs` threads."""

    def __init__(self, location: Location, manifest: Manifest, base: BaseSource, jobs: int) -> None:
        self._location, self._manifest, self._base, self._jobs = location, manifest, base, jobs

    def deltas(self, targets: Iterable[Target], report: Report) -> None:
        """D = W0 ^ W1 of each named tensor into its memory (N x itemsize bytes)."""
        sections = layouts.multitask_layouts(self._manifest)
        reader = ShardedReader(self._location, filenames.MULTITASK, self._manifest.files, sections)
        try:

            def delta(name: str) -> Callable[[int], Bits]:
                base, multitask = self._base.chunks(name), reader.section(name)

                def one(k: int) -> Bits:
                    w0_N = base(k)
                    return np.bitwise_xor(w0_N, multitask.chunk(k, w0_N))

                return one

            self._fill(targets, delta, lambda name: sections[name].chunks, report)
        finally:
            reader.close()

    def bases(self, targets: Iterable[Target], report: Report) -> None:
        """W0 of each named tensor into its memory (N x itemsize bytes)."""
        tensors, chunk = self._manifest.tensors, self._manifest.chunk

        def chunks(name: str) -> int:
            return layouts.base_layout(tensors[name], chunk).chunks

        self._fill(targets, self._base.chunks, chunks, report)

    def vectors(self, task: str, names: Iterable[str]) -> Iterator[tuple[str, list[Quantised]]]:
        """(name, chunks) of a task's rest, packed as it is stored."""
        sections = BY_NAME["rest"].layouts(self._manifest, self._manifest.tasks[task])
        reader = ShardedReader(
            self._location, filenames.rest_of(task), self._manifest.files, sections
        )
        try:
            for name in names:
                chunks, quantised = range(sections[name].chunks), reader.section(name).quantised
                yield name, list(ordered_map(quantised, chunks, jobs=self._jobs))
        finally:
            reader.close()

    def masks(self, task: str, targets: Iterable[Target], report: Report) -> None:
        """A task's packed masks into their memory (ceil(N / 8) bytes, LSB first)."""
        manifest, files = self._manifest, self._manifest.files
        sections = BY_NAME["mask"].layouts(manifest, manifest.tasks[task])
        guided = manifest.tasks[task].codec("mask", "bits") == "guided"
        with ExitStack() as stack:
            masks = ShardedReader(self._location, filenames.masks_of(task), files, sections)
            stack.callback(masks.close)
            if guided:
                merged = layouts.multitask_layouts(manifest)
                multitask = ShardedReader(self._location, filenames.MULTITASK, files, merged)
                stack.callback(multitask.close)

            def mask(name: str) -> Callable[[int], Bits]:
                section, base = masks.section(name), self._base.chunks(name)
                if not guided:
                    return section.chunk
                given, dtype = multitask.section(name), manifest.tensors[name].dtype

                def one(k: int) -> Bits:
                    w0_N = base(k)
                    return section.chunk(k, moved(w0_N, given.chunk(k, w0_N), dtype))

                return one

            self._fill(targets, mask, lambda name: sections[name].chunks, report)

    def contents(self, reader: ModelReader, name: str, start: int, target: Tensor) -> None:
        """Bytes from `start` on of a rebuilt tensor, checked, into uint8 memory."""
        for _, offset, bits_N in rebuild(reader, [name], threads(self._jobs)):
            bytes_N = bits_N.view("u1")
            if offset + bytes_N.size > start:
                skip = max(0, start - offset)
                copy_in(target, offset + skip - start, bytes_N[skip:])

    def _fill(
        self,
        targets: Iterable[Target],
        opened: Callable[[str], Callable[[int], Bits]],
        chunks: Callable[[str], int],
        report: Report,
    ) -> None:
        def work() -> Iterator[tuple[str, Tensor, int, Callable[[int], Bits]]]:
            for name, target in targets:
                chunk = opened(name)
                yield from ((name, target, k, chunk) for k in range(chunks(name)))

        def run(item: tuple[str, Tensor, int, Callable[[int], Bits]]) -> tuple[str, Tensor, Bits]:
            name, target, k, chunk = item
            return name, target, chunk(k)

        last, offset = None, 0
        for name, target, bits_N in ordered_map(run, work(), jobs=self._jobs):
            if target is not last:
                last, offset = target, 0
            copy_in(target, offset, bits_N)
            offset += bits_N.nbytes
            report(name, bits_N.nbytes)
