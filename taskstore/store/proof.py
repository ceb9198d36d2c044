"""Prove the tensors of a model against their checksums while their chunks are used.

A checksum runs over a tensor's bytes in order, and several threads decode chunks about in order.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

from blake3 import blake3

from taskstore.executors import Executor
from taskstore.store.base import Bits
from taskstore.store.rebuild import ModelReader


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
