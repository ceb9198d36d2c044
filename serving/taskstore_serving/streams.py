"""Checkpoint tensors of the base, the multi-task model and the tasks, as loaders want them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Self

import torch
from torch import Tensor

from taskstore.errors import SwapError
from taskstore.format import layouts
from taskstore.format.manifest import Manifest
from taskstore.loader import ModelReader, rebuilt_tensors, resolved
from taskstore.progress import silent
from taskstore.store import Store
from taskstore.swap.memory import blank
from taskstore.swap.source import Source
from taskstore.tensors import load

_LAYER = re.compile(r"(?:.*?\.)??\d+(?=\.)")  # up to the first number in a name


def layers(names: Sequence[str]) -> list[list[str]]:
    """Names that a fused parameter may need together; those outside of numbered layers as one."""
    found: dict[str, list[str]] = {}
    for name in names:
        match = _LAYER.match(name)
        found.setdefault(match[0] if match else "", []).append(name)
    return list(found.values())


def check_servable(manifest: Manifest, tasks: Sequence[str]) -> None:
    """Raise SwapError, with its name, for a tensor of a task that is no selection by a mask."""
    base = rebuilt_tensors(manifest, None)
    for task in tasks:
        entries, tensors = manifest.tasks[task].tensors, rebuilt_tensors(manifest, task)
        for name in sorted({*base, *tensors}):
            problem = ""
            if name not in tensors or name not in base:
                problem = "is only in the base" if name in base else "is not in the base"
            elif (tensors[name].dtype, tensors[name].shape) != (base[name].dtype, base[name].shape):
                problem = "has another dtype or shape than the base's"
            elif resolved(manifest.tasks[task], name)[1].kind == "private":
                problem = f"is its own ({entries[name].reason})"
            elif "mask" not in manifest.tasks[task].all_tiers and tensors[name] != base[name]:
                problem = "has no mask"
            if problem:
                raise SwapError(
                    f"task {task!r} cannot be served with the others: its tensor {name!r} "
                    f"{problem}; leave it out"
                )


class Streams:
    """Reads of one store; a context manager. Tensors come one by one, checked, on the CPU."""

    def __init__(self, store: Store, tasks: Sequence[str], jobs: int) -> None:
        self._store, self._tasks, self._jobs = store, tasks, jobs
        self._merged = set(layouts.multitask_layouts(store.manifest))

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            base = stack.enter_context(self._store.open_base(self._jobs))
            self._readers = {
                task: stack.enter_context(self._store.reader(task, base, task and "mask"))
                for task in (None, *self._tasks)
            }
            self._source = Source(self._store.path, self._store.manifest, base, self._jobs)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def differing(self, names: Sequence[str]) -> bool:
        """Whether the multi-task model differs from the base in one of these tensors."""
        return any(self._own(name) in self._merged for name in names)

    def base(self, names: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
        return self._read(self._readers[None], names)

    def task(self, task: str, names: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
        return self._read(self._readers[task], names)

    def multitask(self, names: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
        """W1 = W0 ^ D; the base's where no task has a mask."""
        for name, tensor in self.base(names):
            own = self._own(name)
            if own in self._merged:
                flat = tensor.view(-1).view(torch.uint8)
                delta = blank(flat.numel(), torch.device("cpu"))
                self._source.deltas([(own, delta)], lambda *_: None)
                flat ^= delta
            yield name, tensor

    def _own(self, name: str) -> str:
        return self._store.manifest.tensors[name].alias or name

    def _read(self, reader: ModelReader, names: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
        for name in names:
            yield name, load(reader, [name], {}, self._jobs, silent, "cpu")[name]
