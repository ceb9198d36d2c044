"""An adapter out of a store: its own tensors, and what they make of the base (SPEC.md 9)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache

import numpy as np
from blake3 import blake3

from taskstore.errors import ChecksumMismatch
from taskstore.format.container_files import ShardedReader
from taskstore.format.dtypes import numel
from taskstore.format.manifest import Task
from taskstore.kernels import floats
from taskstore.models.readers.adapter_steps import F64, Bits, step_of

Chunks = Callable[[int], Bits]  # chunk number -> its elements
FACTORS = 8  # that are kept for the next tensors: experts share theirs


class Adapted:
    """The tensors that a task's adapter makes, chunk by chunk.

    base    the chunks of a tensor of the base, by name; None: only its own tensors are read
    """

    def __init__(
        self,
        task: Task,
        reader: ShardedReader,
        chunk: int,
        base: Callable[[str], Chunks] | None = None,
    ) -> None:
        assert task.adapter is not None
        self._task, self._own, self._chunk, self._base = task, task.adapter.tensors, chunk, base
        self._reader = reader
        self._factor = lru_cache(FACTORS)(self._read_factor)

    def part(self, name: str) -> tuple[int, Chunks]:
        """Return the chunks of a tensor: how many, and how one is made."""
        entry, chunk = self._task.tensors[name], self._chunk
        made, dtype, shape = entry.made, entry.dtype, entry.shape
        assert made is not None and dtype is not None and shape is not None
        n = numel(shape)
        assert self._base is not None
        start = self._chunks(made.saved) if made.saved else self._base(made.base or name)
        step = step_of(made, dtype, shape, self._factor)

        def decoded(k: int) -> Bits:
            first, last = k * chunk, min(n, (k + 1) * chunk)
            return step.made(lambda i, j: _cut(start, chunk, i, j), dtype, n, first, last)

        return -(-n // chunk), decoded

    def blocks(self, names: Iterable[str], label: str) -> Iterator[tuple[str, Bits]]:
        """Yield (name, bits) for each chunk of the adapter's own tensors, in order.

        Raises ChecksumMismatch after the last chunk of one that is not what was packed.
        """
        for name in names:
            state = blake3()
            for bits_N in self._read(name):
                state.update(bits_N.view("u1"))
                yield name, bits_N
            if state.hexdigest() != self._own[name].blake3:
                what, place = f"adapter tensor {name!r} of {label}", [self._reader.path(name)]
                raise ChecksumMismatch(what, self._own[name].blake3, state.hexdigest(), place)

    def _chunks(self, name: str) -> Chunks:
        return self._reader.section(name).chunk

    def _read(self, name: str) -> Iterator[Bits]:
        count, chunks = -(-numel(self._own[name].shape) // self._chunk), self._chunks(name)
        return (chunks(k) for k in range(count))

    def _read_factor(self, name: str) -> F64:
        factor, raw_N = self._own[name], np.concatenate([*self._read(name)])
        return floats.to_float32(raw_N, factor.dtype).astype(np.float64).reshape(factor.shape)


def _cut(chunks: Chunks, chunk: int, start: int, stop: int) -> Bits:
    """Return elements [start, stop) of a tensor."""
    pieces = [
        chunks(k)[max(0, start - k * chunk) : stop - k * chunk]
        for k in range(start // chunk, -(-stop // chunk))
    ]
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
