"""Prove tensors against their checksums: all of a model, or while their chunks are used.

A checksum runs over a tensor's bytes in order, and several threads decode chunks about in order.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from blake3 import blake3

from taskstore.cluster import joined
from taskstore.errors import ChecksumMismatch, FormatError, TaskstoreError
from taskstore.executors import Executor, threads
from taskstore.format.dtypes import nbytes
from taskstore.progress import Meter, silent
from taskstore.store import original_files
from taskstore.store.base import BaseSource, Bits
from taskstore.store.blocks import own_blocks
from taskstore.store.contents import StoreContents
from taskstore.store.original_files import Original
from taskstore.store.rebuild import ModelReader

Model = tuple[str | None, str | None]  # task, tier; None: the base, its own


@dataclass
class _Begun:
    """A tensor of which `following` chunks are in its checksum; None: it is proved."""

    state: Any = field(default_factory=blake3)
    following: int = 0
    nbytes: int = 0


class Proof:
    """Checksums of what is decoded of one model; thread-safe.

    A chunk that comes before its turn waits. No more than `waiting` of them do: the oldest are let
    go, and `finish` decodes them again. A chunk that comes again is not looked at again.
    """

    def __init__(self, reader: ModelReader, waiting: int) -> None:
        self._reader, self._most = reader, waiting
        self._begun: dict[str, _Begun] = {}
        self._waiting: dict[tuple[str, int], Bits] = {}
        self._lock = threading.Lock()

    def add(self, name: str, k: int, bits_N: Bits) -> None:
        """Take chunk `k` of a tensor; raises ChecksumMismatch where it ends one that is wrong."""
        with self._lock:
            begun = self._begun.setdefault(name, _Begun())
            if begun.state is None or k < begun.following:
                return
            self._waiting[name, k] = bits_N
            while (next_N := self._waiting.pop((name, begun.following), None)) is not None:
                begun.state.update(next_N.view("u1"))
                begun.following += 1
                begun.nbytes += next_N.nbytes
            if len(self._waiting) > self._most:
                del self._waiting[next(iter(self._waiting))]
            if begun.following == self._reader.chunk_count(name):
                self._check(name, begun)

    def _check(self, name: str, begun: _Begun) -> None:
        tensor = self._reader.tensors[name]
        self._reader.check(tensor, begun.nbytes, begun.state.hexdigest())
        begun.state = None

    def finish(self, executor: Executor) -> None:
        """Decode what is missing of each tensor that was begun; raises ChecksumMismatch."""
        left = {name: begun for name, begun in self._begun.items() if begun.state is not None}
        units = [
            (name, k)
            for name, begun in left.items()
            for k in range(begun.following, self._reader.chunk_count(name))
        ]
        for (name, k), bits_N in executor.map(_decoded, self._reader, units):
            self.add(name, k, bits_N)
        for name, begun in left.items():
            if begun.state is not None:
                self._check(name, begun)


def _decoded(reader: ModelReader, unit: tuple[str, int]) -> tuple[tuple[str, int], Bits]:
    return unit, reader.chunk(*unit)


@dataclass
class _Job:
    store: StoreContents
    executor: Executor
    meter: Meter
    tensors: int = 0  # that were rebuilt


def prove_models(
    store: StoreContents, models: Sequence[Model], executor: Executor, meter: Meter
) -> tuple[int, list[str]]:
    """Rebuild models, on a cluster where there is one; returns how many tensors, and problems."""
    if joined() is None:
        return _proved(_Job(store, executor, meter), models)
    base, tensors, problems = store.manifest.tensors.values(), 0, list[str]()
    for name, (count, found) in executor.map(_proved_apart, store, models):
        tensors += count
        problems += [problem for problem in found if problem not in problems]
        meter.add(name, sum(nbytes(tensor.dtype, tensor.shape) for tensor in base))
    return tensors, problems


def _proved_apart(store: StoreContents, model: Model) -> tuple[str, tuple[int, list[str]]]:
    return model[0] or "base", _proved(_Job(store, threads(1), Meter(silent, 0)), [model])


def _proved(job: _Job, models: Sequence[Model]) -> tuple[int, list[str]]:
    problems = list[str]()
    try:
        with job.store.open_base(job.executor) as base:
            for task, tier in models:
                problems += _prove_model(job, task, tier, base)
    except TaskstoreError as error:
        problems.append(str(error))
    return job.tensors, problems


def _prove_model(job: _Job, task: str | None, tier: str | None, base: BaseSource) -> Iterator[str]:
    try:
        with job.store.reader(task, base, tier) as reader:
            try:
                files = original_files.read(job.store.path, job.store.manifest, task, tier)
            except FormatError as error:
                yield str(error)
                files = []
            for file in files or (None,):
                yield from _prove_tensors(job, reader, file)
            if task is not None and reader.adapted is not None:
                yield from _prove_adapter(job, reader, task)
    except TaskstoreError as error:
        yield str(error)


def _prove_adapter(job: _Job, reader: ModelReader, task: str) -> Iterator[str]:
    """Check the adapter's own tensors, and the file that they are in."""
    file = original_files.read_adapter(job.store.path, job.store.manifest, task)
    adapter = job.store.manifest.tasks[task].adapter
    state, own = blake3(file.head if file else b""), adapter.tensors if adapter else {}
    assert reader.adapted is not None
    for _, bits_N in reader.adapted.blocks(file.tensors if file else own, reader.label):
        state.update(bits_N.view("u1"))
    job.tensors += len(own)
    if file and state.hexdigest() != file.recorded.blake3:
        what = f"{file.name!r} of {reader.label}"
        yield str(ChecksumMismatch(what, file.recorded.blake3, state.hexdigest()))


def _prove_tensors(job: _Job, reader: ModelReader, file: Original | None) -> Iterator[str]:
    """Check a weight file's tensors, and if all are good the whole file; None: all tensors."""
    state, good = blake3(file.head) if file else None, True
    for name in file.tensors if file else reader.own_tensors:
        job.tensors += 1
        problem = _prove_tensor(job, reader, name, state)
        if problem:
            good = False
            yield problem
    if file and state and good and state.hexdigest() != file.recorded.blake3:
        what = f"{file.name!r} of {reader.label}"
        yield str(ChecksumMismatch(what, file.recorded.blake3, state.hexdigest()))


def _prove_tensor(job: _Job, reader: ModelReader, name: str, file: Any) -> str | None:
    try:
        for _, bits_N in own_blocks(reader, [name], job.executor):
            if file:
                file.update(bits_N.view("u1"))
            job.meter.add(name, bits_N.nbytes)
    except ChecksumMismatch as error:
        return str(error)
    except TaskstoreError as error:
        return f"{reader.label}, {error}"
    return None
