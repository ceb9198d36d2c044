"""The blocks of a model's tensors, in order, each tensor proved against its checksum at its end.

Workers decode ahead of the consumer, and put what they have where it goes: a tensor's memory, or a
place in a file. Only the checksum runs over a tensor in order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Protocol

from blake3 import blake3

from taskstore.executors import Executor
from taskstore.format.dtypes import ITEMSIZE, numel
from taskstore.store.base import Bits
from taskstore.store.catalog import Rebuilt
from taskstore.store.rebuild import ModelReader


class Target(Protocol):
    """Where the bytes of tensors go as soon as they are decoded, before they are checked."""

    def begin(self, name: str) -> None:
        """Make room for a tensor; its sections are open by now, which proves its size."""

    def put(self, name: str, offset: int, bits_N: Bits) -> None:
        """Take bytes from `offset` of a tensor on; several threads call it, in any order."""


def rebuild(
    reader: ModelReader, names: Iterable[str], executor: Executor, target: Target | None = None
) -> Iterator[tuple[Rebuilt, int, Bits]]:
    """Yield (tensor, offset in bytes, bits) for each chunk of each tensor, in order.

    By then `target` has its bytes. A tensor's checksum is compared after its last chunk: read the
    iterator to its end before you trust what came. Raises ChecksumMismatch.
    """
    state, offset = blake3(), 0
    for name, at, bits_N in executor.map(_chunk, (reader, target), _units(reader, names, target)):
        tensor = reader.tensors[name]
        assert at == offset, f"a chunk of {name!r} is not of its size"
        if bits_N is not None:
            state.update(bits_N.view("u1"))
            yield tensor, offset, bits_N
            offset += bits_N.nbytes
            continue
        reader.check(tensor, offset, state.hexdigest())
        state, offset = blake3(), 0


def _units(
    reader: ModelReader, names: Iterable[str], target: Target | None
) -> Iterator[tuple[str, int | None, int]]:
    """Yield the chunks of each tensor, by number and first byte, and None at its end."""
    for name in names:
        count, at = reader.chunk_count(name), 0
        if target is not None:
            target.begin(name)
        sizes = reader.chunk_sizes(name)
        assert len(sizes) == count, f"{name!r} has {count} chunks, not {len(sizes)}"
        for k, size in enumerate(sizes):
            yield name, k, at
            at += size * ITEMSIZE[reader.tensors[name].dtype]
        yield name, None, at


def _chunk(
    shared: tuple[ModelReader, Target | None], unit: tuple[str, int | None, int]
) -> tuple[str, int, Bits | None]:
    (reader, target), (name, k, at) = shared, unit
    if k is None:
        return name, at, None
    bits_N = reader.chunk(name, k)
    if target is not None:
        target.put(name, at, bits_N)
    return name, at, bits_N


class _Joined:
    """The target of tensors that are parts of a model's own: rebuilt name -> own, first byte."""

    def __init__(self, target: Target, places: dict[str, tuple[str, int]]) -> None:
        self._target, self._places = target, places

    def begin(self, name: str) -> None:
        own, start = self._places[name]
        if not start:
            self._target.begin(own)

    def put(self, name: str, offset: int, bits_N: Bits) -> None:
        own, start = self._places[name]
        self._target.put(own, start + offset, bits_N)


def own_blocks(
    reader: ModelReader, names: Iterable[str], executor: Executor, target: Target | None = None
) -> Iterator[tuple[str, Bits]]:
    """Yield (tensor's own name, bits) for each chunk, in order, of tensors as `own_tensors` lists.

    See `rebuild`; a tensor that is a part of another is cut out of it once all of that was checked.
    """
    saved, checked = reader.saved, set[str]()
    for part, group in groupby(names, lambda n: n in saved and saved[n].start is not None):
        if not part:
            places = dict[str, tuple[str, int]]()
            for name in group:
                at = 0
                for of in saved[name].of if name in saved else [name]:
                    places[of] = name, at
                    at += reader.tensors[of].nbytes
            joined = _Joined(target, places) if target is not None else None
            yield from (
                (places[t.name][0], bits_N)
                for t, _, bits_N in rebuild(reader, places, executor, joined)
            )
            continue
        for name in group:
            whole = saved[name].of[0]
            if whole not in checked:
                for _ in rebuild(reader, [whole], executor):
                    pass
                checked.add(whole)
            start, at = saved[name].start or 0, 0
            stop = start + numel(saved[name].shape or ())
            if target is not None:
                target.begin(name)
            for bits_N in reader.elements(whole, start, stop):
                if target is not None:
                    target.put(name, at, bits_N)
                    at += bits_N.nbytes
                yield name, bits_N
