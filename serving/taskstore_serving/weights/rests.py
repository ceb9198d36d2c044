"""Tensors that some task adds a rest to: rebuilt from the base's weights at each swap.

The units are those of `taskstore.swap.rest_units`; but tasks come and go, and a tensor of the
store is here a span of the engine's memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from taskstore.format.manifest import Manifest
from taskstore.kernels.bits import packed_size
from taskstore.kernels.device_ops import vectors_for
from taskstore.kernels.quantise import Quantised
from taskstore.swap.lane import Lane, Unit
from taskstore.swap.memory import SwapMemory, blank
from taskstore.swap.rest_units import Sum
from taskstore.swap.states import State
from taskstore_serving.weights.spans import Span
from taskstore_serving.weights.streams import Streams


@dataclass(frozen=True)
class Chunk:
    """One unit, and its tables that tasks come into and go from."""

    source: str
    number: int
    masks: dict[State, Any]
    vectors: dict[State, Any]
    unit: Sum


class Rests(Lane):
    """Base's weights and D of some spans, and masks and vectors of tasks."""

    def __init__(
        self, device: torch.device, store: torch.device, manifest: Manifest, spans: Sequence[Span]
    ) -> None:
        super().__init__(device, (), (), ())
        super().allocate(())
        self._waits, self._manifest, self._spans = store, manifest, spans
        self.sources = {span.source: span.n for span in spans}
        self._chunks: list[Chunk] = []
        self.taken: dict[str, SwapMemory] = {}

    def memory_of(self, tasks: Iterable[str], streams: Streams) -> SwapMemory:
        """What is allocated for these tasks, vectors about, and for all: computed before it is."""
        masks = vectors = 0
        for task in tasks:
            bits = self._manifest.tasks[task].bits or 0
            masks += sum(packed_size(self.sources[s]) for s in self._having(task, "mask", streams))
            for source in self._having(task, "rest", streams):
                fine = bits > 3 or len(self._manifest.tensors[source].shape) < 2
                vectors += self.sources[source] if fine else packed_size(4 * self.sources[source])
        return SwapMemory(masks=masks, vectors=vectors, masks_on_host=self._on_host)

    def fixed(self, streams: Streams) -> SwapMemory:
        """What is allocated whatever the tasks."""
        merged = set(streams.differing(list(self.sources)))
        return SwapMemory(
            base=sum(span.piece.nbytes for span in self._spans),
            delta=sum(span.piece.nbytes for span in self._spans if span.source in merged),
            masks_on_host=self._on_host,
        )

    def fill(self, streams: Streams) -> None:
        """The base is live: keep its weights, and read D."""
        kernels = vectors_for(self.device)
        for span in self._spans:
            live, size = span.piece, span.piece.tensor.element_size()
            base, delta_N = live.flat.clone(), None
            if streams.differing([span.source]):
                delta = blank(live.nbytes, self.device)
                streams.deltas([(span.source, delta)])
                delta_N = kernels.native(delta, size)
            w_N, w0_N = kernels.native(live.flat, size), kernels.native(base, size)
            step = self._manifest.chunk
            for k, at in enumerate(range(0, span.n, step)):
                part, masks, vectors = slice(at, at + step), dict[State, Any](), dict[State, Any]()
                d_N = None if delta_N is None else delta_N[part]
                unit = Sum(live.dtype, w_N[part], w0_N[part], d_N, masks, vectors, kernels)
                self._chunks.append(Chunk(span.source, k, masks, vectors, unit))

    def learn(self, task: str, streams: Streams) -> None:
        """Read a task's masks and vectors."""
        masks = {
            source: blank(packed_size(self.sources[source]), self._waits)
            for source in self._having(task, "mask", streams)
        }
        streams.masks(task, list(masks.items()))
        vectors = dict(streams.vectors(task, self._having(task, "rest", streams)))
        kernels, step = vectors_for(self.device), self._manifest.chunk // 8
        for chunk in self._chunks:
            if chunk.source in masks:
                bits = slice(chunk.number * step, (chunk.number + 1) * step)
                chunk.masks[task] = kernels.native(masks[chunk.source][bits], 1)
            if chunk.source in vectors:
                vector = vectors[chunk.source][chunk.number]
                chunk.vectors[task] = kernels.place(vector, self._waits)
        self.taken[task] = SwapMemory(
            masks=sum(mask.numel() for mask in masks.values()),
            vectors=sum(_bytes(one) for chunks in vectors.values() for one in chunks),
            masks_on_host=self._on_host,
        )

    def forget(self, task: str) -> None:
        """Also a task that was learned by half, or not at all."""
        self.taken.pop(task, None)
        for chunk in self._chunks:
            chunk.masks.pop(task, None)
            chunk.vectors.pop(task, None)

    def units(self) -> list[Unit]:
        return [chunk.unit for chunk in self._chunks]

    @property
    def _on_host(self) -> bool:
        return self._waits != self.device

    def _having(self, task: str, tier: str, streams: Streams) -> list[str]:
        return [source for source in self.sources if source in streams.tier(task, tier)]


def _bytes(vector: Quantised) -> int:
    arrays = (vector.symbols, vector.rows.codes_R, vector.where_E, vector.z_E)
    return sum(array.nbytes for array in arrays)
