"""Swaps tensors by rebuilding them from the base's weights, as the tier `rest` needs.

XOR takes a mask away again. A rest is added with rounding, which nothing takes away. So the base's
weights lie beside the live ones, and every swap starts from them: W0, through the task's mask where
it has one, plus its vector. One chunk of one tensor is a unit. It depends on nothing that was live
before, so to undo a unit is to apply the state before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from taskstore.kernels.bits import packed_size
from taskstore.kernels.device_ops import DeviceOps, vectors_for
from taskstore.kernels.quantise import Quantised
from taskstore.swap.memory import SwapMemory, add, blank
from taskstore.swap.states import Added, State, weight_bytes


@dataclass(frozen=True)
class RestUnit:
    """Chunk `number` of a tensor; native views of live and base's weights, and of D or None.

    masks, vectors   state -> source -> packed bits, chunks; tasks come and go, the base has neither
    """

    part: Added
    number: int
    w_N: Any
    w0_N: Any
    d_N: Any
    masks: Mapping[State, Mapping[str, Tensor]]
    vectors: Mapping[State, Mapping[str, Sequence[Any]]]
    kernels: DeviceOps

    def apply(self, new: State) -> None:
        """Write the weights of a state, whatever is live."""
        source, below_N = self.part.source, self.w0_N
        mask, chunks = self.masks.get(new, {}).get(source), self.vectors.get(new, {}).get(source)
        with torch.inference_mode():
            if mask is not None:
                step, below_N = self.part.chunk // 8, self.kernels.clone(below_N)
                bits = mask[self.number * step : (self.number + 1) * step]
                self.kernels.select(self.kernels.native(bits, 1), self.d_N, below_N)
            if chunks is None:
                self.kernels.copy(below_N, self.w_N)
            else:
                self.kernels.add(chunks[self.number], below_N, self.w_N, self.part.live.dtype)

    def move(self, old: State, new: State) -> None:
        """All of it or nothing."""
        try:
            self.apply(new)
        except BaseException:
            self.apply(old)
            raise


class Rests:
    """Base's weights, D, masks and vectors of the tensors of one device that are rebuilt so.

    All are kept by the name of the store's tensor. `add`, fill and `remove` change the tasks, also
    under units that exist.
    """

    def __init__(self, device: torch.device, store: torch.device, parts: Sequence[Added]) -> None:
        self.device, self.store, self.parts = device, store, list(parts)
        self.masks: dict[State, dict[str, Tensor]] = {}
        self.vectors: dict[State, dict[str, list[Any]]] = {}
        self._kernels = vectors_for(device)

    @property
    def _sources(self) -> dict[str, Added]:
        return {part.source: part for part in self.parts}

    def memory(self) -> SwapMemory:
        """What all of it takes, with the tasks that the parts name."""
        parts = self._sources.values()
        base = sum(map(weight_bytes, parts))
        delta = sum(weight_bytes(part) for part in parts if part.merged)
        tasks = {task for part in parts for task in (*part.masked, *part.vectors)}
        return add([SwapMemory(base=base, delta=delta), *map(self.memory_of, tasks)])

    def memory_of(self, task: str) -> SwapMemory:
        """What a task's masks take, and about what its vectors do."""
        parts = self._sources.values()
        return SwapMemory(
            masks=sum(packed_size(part.n) for part in parts if task in part.masked),
            vectors=sum(part.vectors.get(task, 0) for part in parts),
        )

    def allocate(self, tasks: Sequence[str]) -> None:
        """Make memory for all but the vectors, all zero."""

        def memory(parts: Iterable[Added]) -> dict[str, Tensor]:
            return {part.source: blank(weight_bytes(part), self.device) for part in parts}

        self.bases = memory(self._sources.values())
        self.deltas = memory(part for part in self._sources.values() if part.merged)
        for task in tasks:
            self.add(task)

    def add(self, task: str) -> None:
        """Make memory for the masks of a task that the parts name."""
        masked = (part for part in self._sources.values() if task in part.masked)
        self.masks[task] = {p.source: blank(packed_size(p.n), self.store) for p in masked}
        self.vectors[task] = {}

    def remove(self, task: str) -> None:
        """Forget a task, also one that was added by half, or not at all."""
        self.masks.pop(task, None)
        self.vectors.pop(task, None)
        for part in self.parts:
            part.vectors.pop(task, None)
            part.masked.discard(task)

    def rename(self, task: str, name: str) -> None:
        """Keep all of a task under another name, which is free."""
        self.masks[name], self.vectors[name] = self.masks.pop(task), self.vectors.pop(task)
        for part in self.parts:
            if task in part.vectors:
                part.vectors[name] = part.vectors.pop(task)
            if task in part.masked:
                part.masked.remove(task)
                part.masked.add(name)

    def base_targets(self) -> list[tuple[str, Tensor]]:
        return list(self.bases.items())

    def delta_targets(self) -> list[tuple[str, Tensor]]:
        return list(self.deltas.items())

    def mask_targets(self, task: str) -> list[tuple[str, Tensor]]:
        return list(self.masks[task].items())

    def vector_targets(self, task: str) -> list[str]:
        """Tensors of the store whose vectors are wanted; they go to `place`."""
        return [name for name, part in self._sources.items() if task in part.vectors]

    def place(self, task: str, name: str, chunks: Iterable[Quantised]) -> None:
        """Keep the vectors of a tensor where a swap will use them from then on."""
        self.vectors[task][name] = [self._kernels.place(chunk, self.store) for chunk in chunks]

    def units(self) -> Iterator[RestUnit]:
        """Give a unit per chunk."""
        for part in self.parts:
            yield from self._units_of(part)

    def _units_of(self, part: Added) -> Iterator[RestUnit]:
        size, native = part.live.tensor.element_size(), self._kernels.native
        w_N, w0_N = native(part.live.flat, size), native(self.bases[part.source], size)
        d_N = native(self.deltas[part.source], size) if part.merged else None
        for number, begin in enumerate(range(0, part.n, part.chunk)):
            span = slice(begin, min(part.n, begin + part.chunk))
            yield RestUnit(
                part,
                number,
                w_N[span],
                w0_N[span],
                None if d_N is None else d_N[span],
                self.masks,
                self.vectors,
                self._kernels,
            )

    def foreseen(self, part: Added, state: State) -> Iterator[Any]:
        """Give the weights that a part would have in a state, chunk by chunk, in other memory."""
        for unit in self._units_of(part):
            w_N = self._kernels.clone(unit.w_N)
            replace(unit, w_N=w_N).apply(state)
            yield w_N
