"""Reads checkpoint tensors of base, multi-task model and tasks, as loaders want them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Self

import torch
from torch import Tensor

from taskstore.executors import Executor
from taskstore.format import layouts
from taskstore.kernels.quantise import Quantised
from taskstore.kernels.torch_dtypes import TORCH
from taskstore.store import Store
from taskstore.store.blocks import rebuild
from taskstore.store.catalog import Rebuilt, tiers_up_to
from taskstore.store.rebuild import ModelReader
from taskstore.swap.from_store import Source, Target
from taskstore.swap.memory import blank
from taskstore_serving.checks.servable import served_as, tier_of

_LAYER = re.compile(r"(?:.*?\.)??\d+(?=\.)")  # up to the first number in a name


def layers(names: Sequence[str]) -> list[list[str]]:
    """Group names that a fused parameter may need together.

    Names outside of numbered layers come first, each alone.
    """
    found: dict[str, list[str]] = {}
    for name in sorted(names, key=numbered):
        match = _LAYER.match(name)
        found.setdefault(match[0] if match else name, []).append(name)
    return list(found.values())


def numbered(name: str) -> bool:
    """Whether a tensor is in a numbered layer."""
    return _LAYER.match(name) is not None


class Streams:
    """Reads of one store; a context manager. Tensors come one by one, checked, on the CPU."""

    def __init__(
        self, store: Store, tasks: Sequence[str], residual: int, executor: Executor
    ) -> None:
        self.manifest, self.tasks, self.residual = store.manifest, tasks, residual
        self._store, self.executor = store, executor
        self._merged = set(layouts.multitask_layouts(self.manifest))
        self.names = list(self.manifest.tensors)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            base = stack.enter_context(self._store.open_base(self.executor))
            self._readers = {
                task: stack.enter_context(self._store.reader(task, base, self._tier(task)))
                for task in (None, *self.tasks)
            }
            self._source = Source(self._store, base, self.executor)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _tier(self, task: str | None) -> str | None:
        """None where the task is the base, to the last bit."""
        if task is None or not self.manifest.tasks[task].all_tiers:
            return None
        return tier_of(self.manifest, task, self.residual)

    def differing(self, names: Sequence[str]) -> list[str]:
        """Of these tensors, those in which the multi-task model differs from the base."""
        return [name for name in names if self.source(name) in self._merged]

    def changed(self, task: str, names: Sequence[str]) -> list[str]:
        """Of these tensors, those in which a task differs from the base."""
        base, mine = self._readers[None].tensors, self._readers[task].tensors
        served = {name: served_as(self.manifest, task, name) for name in names}
        return [n for n, own in served.items() if own and mine[own].blake3 != base[n].blake3]

    def base(self, names: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
        return ((name, self._tensor(self._readers[None], name)) for name in names)

    def task(self, task: str, names: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
        """A task's tensors that differ from the base's."""
        for name in self.changed(task, names):
            yield name, self._tensor(self._readers[task], served_as(self.manifest, task, name))

    def multitask(self, names: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
        """The multi-task model's tensors that differ from the base's: W1 = W0 ^ D."""
        base = self._readers[None]
        for name in self.differing(names):
            of, like = self.source(name), base.tensors[name]
            flat = blank(like.nbytes, torch.device("cpu"))
            self.deltas([(of, flat)])
            yield name, self._into(flat, base, name)

    def deltas(self, targets: Sequence[Target]) -> None:
        """Read D of tensors of the store into uint8 memory."""
        if targets:
            self._source.deltas(targets, _silent)

    def masks(self, task: str, targets: Sequence[Target]) -> None:
        """Read a task's packed masks into uint8 memory."""
        if targets:
            self._source.masks(task, targets, _silent)

    def vectors(self, task: str, names: Sequence[str]) -> Iterator[tuple[str, list[Quantised]]]:
        """A task's rest by tensors, in chunks."""
        return self._source.vectors(task, names) if names else iter(())

    def tier(self, task: str, tier: str) -> set[str]:
        """Tensors of the store that a task is served with this tier of."""
        model, served = self.manifest.tasks[task], self._tier(task)
        return {name for name in model.tensors if tier in tiers_up_to(model, name, served)}

    def rests(self) -> dict[str, Rebuilt]:
        """Tensors of the base that some task of the store has a rest for, served or not."""
        if not self.residual:
            return {}
        models = self.manifest.tasks.values()
        having = {n for model in models for n in model.tensors if "rest" in model.tiers_of(n)}
        base = self._readers[None].tensors
        return {name: like for name, like in base.items() if self.source(name) in having}

    def source(self, name: str) -> str:
        """The tensor whose sections hold this one, which may be an alias."""
        return self.manifest.tensors[name].alias or name

    def _tensor(self, reader: ModelReader, name: str) -> Tensor:
        reader.chunk_count(name)  # its files prove its size
        return self._into(blank(reader.tensors[name].nbytes, torch.device("cpu")), reader, name)

    def _into(self, flat: Tensor, reader: ModelReader, name: str) -> Tensor:
        """A tensor of a model, combined by XOR with bytes that are there; blank ones are zero."""
        like, bytes_N = reader.tensors[name], flat.numpy()
        for _, offset, bits_N in rebuild(reader, [name], self.executor):
            bytes_N[offset : offset + bits_N.nbytes] ^= bits_N.view("u1")
        return flat.view(TORCH[like.dtype]).view(like.shape)


def _silent(name: str, nbytes: int) -> None:
    """Report nothing."""
