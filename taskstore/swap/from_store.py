"""Streams a family's D, masks, vectors and own contents from its store into memory on a device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from blake3 import blake3
from numpy.typing import NDArray
from torch import Tensor

from taskstore.executors import Executor
from taskstore.format import layouts
from taskstore.format import names as filenames
from taskstore.format.container_files import ShardedReader
from taskstore.format.dtypes import ITEMSIZE
from taskstore.format.section import Layout, SectionReader
from taskstore.format.tiers import BY_NAME
from taskstore.format.tiers.mask import moved
from taskstore.kernels.quantise import Quantised
from taskstore.kernels.torch_dtypes import TORCH
from taskstore.store import Store
from taskstore.store.base import BaseSource
from taskstore.store.blocks import rebuild
from taskstore.store.rebuild import ModelReader
from taskstore.store.to_torch import copy_in
from taskstore.swap.states import State, States

Bits = NDArray[Any]
Report = Callable[[str, int], None]
Target = tuple[str, Tensor]  # name of a tensor in the store, uint8 memory for it
OPEN = 64  # tensors whose sections are open
MASKS = 8  # chunks of a mask that are decoded together: they are an eighth or less of the weights'
Opened = Callable[[str], Callable[[int], Bits]]  # a tensor's name -> how its chunks are decoded


class Source:
    """Reads of one store for one `attach`; the executor decodes chunks ahead."""

    def __init__(self, store: Store, base: BaseSource, executor: Executor) -> None:
        self._store, self._base, self._executor = store, base, executor
        self._manifest = store.manifest

    def bases(self, targets: Iterable[Target], report: Report) -> None:
        """W0 of each named tensor into its memory (N x itemsize bytes)."""
        self._fill(targets, self._base.chunks, report)

    def deltas(self, targets: Iterable[Target], report: Report) -> None:
        """D = W0 ^ W1 of each named tensor into its memory (N x itemsize bytes)."""
        with self._multitask() as multitask:

            def delta(name: str) -> Callable[[int], Bits]:
                base, section = self._base.chunks(name), multitask.section(name)

                def one(k: int) -> Bits:
                    w0_N = base(k)
                    return np.bitwise_xor(w0_N, section.chunk(k, w0_N))

                return one

            self._fill(targets, delta, report)

    def masks(self, task: str, targets: Iterable[Target], report: Report) -> None:
        """A task's packed masks into their memory (ceil(N / 8) bytes, LSB first)."""
        tier, entry = BY_NAME["mask"], self._manifest.tasks[task]
        with ExitStack() as stack:
            sections = tier.layouts(self._manifest, entry)
            masks = stack.enter_context(
                self._open(tier.stem(self._manifest.folder(task)), sections)
            )
            guided = any(layout.codec == "guided" for layout in sections.values())
            multitask = stack.enter_context(self._multitask()) if guided else None

            def mask(name: str) -> Callable[[int], Bits]:
                section = masks.section(name)
                if multitask is None:
                    return section.chunk
                base, given = self._base.chunks(name), multitask.section(name)
                dtype = self._manifest.tensors[name].dtype

                def one(k: int) -> Bits:
                    w0_N = base(k)
                    return section.chunk(k, moved(w0_N, given.chunk(k, w0_N), dtype))

                return one

            self._fill(targets, mask, report, together=MASKS)

    def vectors(self, task: str, names: Iterable[str]) -> Iterator[tuple[str, list[Quantised]]]:
        """(name, chunks) of a task's rest, packed as it is stored."""
        tier = BY_NAME["rest"]
        sections = tier.layouts(self._manifest, self._manifest.tasks[task])
        with self._open(tier.stem(self._manifest.folder(task)), sections) as rests:
            for name in names:
                units = range(sections[name].chunks)
                yield name, list(self._executor.map(_quantised, rests.section(name), units))

    def contents(
        self, reader: ModelReader, name: str, start: int, dtype: str, target: Tensor
    ) -> None:
        """Bytes from `start` on of a rebuilt tensor, checked and cast, into uint8 memory."""
        for tensor, stored, bits_N in rebuild(reader, [name], self._executor):
            bytes_N = cast(bits_N, tensor.dtype, dtype)
            offset = stored // ITEMSIZE[tensor.dtype] * ITEMSIZE[dtype]
            if offset + bytes_N.size > start:
                skip = max(0, start - offset)
                copy_in(target, offset + skip - start, bytes_N[skip:])

    def _multitask(self) -> closing[ShardedReader]:
        return self._open(filenames.MULTITASK, layouts.multitask_layouts(self._manifest))

    def _open(self, stem: str, sections: Mapping[str, Layout]) -> closing[ShardedReader]:
        location, files = self._store.location, self._manifest.files
        return closing(ShardedReader(location, stem, files, sections))

    def _fill(
        self, targets: Iterable[Target], opened: Opened, report: Report, together: int = 1
    ) -> None:
        """Each target with the chunks of its tensor, one after the other."""
        tensors, chunk, every = self._manifest.tensors, self._manifest.chunk, list(targets)
        chunks = [layouts.base_layout(tensors[name], chunk).chunks for name, _ in every]
        units = (
            (i, name, range(k, min(k + together, chunks[i])))
            for i, (name, _) in enumerate(every)
            for k in range(0, chunks[i], together)
        )
        offsets = [0] * len(every)
        for i, found in self._executor.map(_decoded, lru_cache(OPEN)(opened), units):
            name, target = every[i]
            for bits_N in found:
                copy_in(target, offsets[i], bits_N)
                offsets[i] += bits_N.nbytes
                report(name, bits_N.nbytes)


def _decoded(opened: Opened, unit: tuple[int, str, range]) -> tuple[int, list[Bits]]:
    i, name, chunks = unit
    return i, list(map(opened(name), chunks))


def _quantised(rest: SectionReader, k: int) -> Quantised:
    return rest.quantised(k)


def cast(bits_N: Bits, stored: str, live: str) -> Bits:
    """Cast N elements from one dtype of safetensors to another; uint8 (bytes,)."""
    if stored == live:
        return bits_N.view("u1")
    bytes_N = torch.from_numpy(np.require(bits_N.view("u1"), requirements="W"))
    found: Bits = bytes_N.view(TORCH[stored]).to(TORCH[live]).view(torch.uint8).numpy()
    return found


def settle(store: Store, states: States, attached: Sequence[State], executor: Executor) -> None:
    """Tell `states` what the cast tensors of the attached states are, checksums included."""
    if not any(states.casts(state) for state in attached):
        return
    with store.open_base(executor) as base:
        for state in attached:
            wanted = states.casts(state)
            with store.reader(state, base, states.tier) as reader:
                for name, live in wanted.items():
                    hashed = blake3()
                    for tensor, _, bits_N in rebuild(reader, [name], executor):
                        hashed.update(cast(bits_N, tensor.dtype, live.dtype).tobytes())
                    states.settle(state, name, live.dtype, hashed.hexdigest())
