"""Tensors that a swap rebuilds from the base's weights: what the tier `rest` needs.

Masks are taken away again by XOR; a rest is added with rounding and cannot be. So the base's
weights lie beside the live ones, and every swap starts from them: W0, through the task's mask where
it has one, plus its vector. One chunk of one tensor is a unit; it depends on nothing that was
live before, so to undo it is to do it for the state before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from taskstore.kernels.bits import packed_size
from taskstore.kernels.device_ops import DeviceOps, vectors_for
from taskstore.kernels.quantise import Quantised
from taskstore.swap.memory import SwapMemory, blank
from taskstore.swap.states import Added, State, weight_bytes


@dataclass(frozen=True)
class Sum:
    """A unit: a chunk of a tensor; native views of live and base's weights, and of D or None.

    masks, vectors   per task; the base has neither
    """

    dtype: str
    w_N: Any
    w0_N: Any
    d_N: Any
    masks: Mapping[State, Any]
    vectors: Mapping[State, Any]
    kernels: DeviceOps

    def apply(self, new: State) -> None:
        """Write the weights of a state, whatever is live."""
        mask_P, vector = self.masks.get(new), self.vectors.get(new)
        with torch.inference_mode():
            below_N = self.w0_N
            if mask_P is not None:
                below_N = self.kernels.clone(below_N)
                self.kernels.select(mask_P, self.d_N, below_N)
            if vector is None:
                self.kernels.copy(below_N, self.w_N)
            else:
                self.kernels.add(vector, below_N, self.w_N, self.dtype)

    def move(self, old: State, new: State) -> None:
        """All of it or nothing."""
        try:
            self.apply(new)
        except BaseException:
            self.apply(old)
            raise


class Additions:
    """Base's weights, D, masks and vectors of the tensors of one device that are rebuilt so.

    All are kept by the name of the store's tensor.
    """

    def __init__(self, device: torch.device, store: torch.device, parts: Sequence[Added]) -> None:
        self.device, self.store, self.parts = device, store, parts
        self._sources = {part.source: part for part in parts}
        self._masked = {name: part for name, part in self._sources.items() if part.masked}

    def memory(self, tasks: int) -> SwapMemory:
        """What `allocate` makes for so many tasks, and about what the vectors take."""
        return SwapMemory(
            base=sum(map(weight_bytes, self._sources.values())),
            delta=sum(map(weight_bytes, self._masked.values())),
            masks=tasks * sum(packed_size(part.n) for part in self._masked.values()),
            vectors=sum(part.vector_bytes for part in self._sources.values()),
        )

    def allocate(self, tasks: Sequence[str]) -> None:
        def memory(parts: Mapping[str, Added]) -> dict[str, Tensor]:
            return {name: blank(weight_bytes(part), self.device) for name, part in parts.items()}

        self.bases, self.deltas = memory(self._sources), memory(self._masked)
        self.masks = {
            task: {name: blank(packed_size(p.n), self.store) for name, p in self._masked.items()}
            for task in tasks
        }
        self.vectors: dict[tuple[str, str], list[Quantised]] = {}

    def base_targets(self) -> list[tuple[str, Tensor]]:
        return list(self.bases.items())

    def delta_targets(self) -> list[tuple[str, Tensor]]:
        return list(self.deltas.items())

    def mask_targets(self, task: str) -> list[tuple[str, Tensor]]:
        masks = self.masks[task].items()
        return [(name, memory) for name, memory in masks if task in self._masked[name].masked]

    def vector_targets(self, task: str) -> list[str]:
        """Tensors of the store whose vectors are wanted; they go to `vectors`."""
        return [name for name, part in self._sources.items() if task in part.tasks]

    def units(self) -> Iterator[Sum]:
        """One per chunk; the vectors are where they will be used from then on."""
        kernels = vectors_for(self.device)
        placed = {
            key: [kernels.place(one, self.store) for one in chunks]
            for key, chunks in self.vectors.items()
        }
        self.vectors = {}
        for part in self.parts:
            size, name = part.live.tensor.element_size(), part.source
            w_N = kernels.native(part.live.flat, size)
            w0_N = kernels.native(self.bases[name], size)
            d_N = kernels.native(self.deltas[name], size) if part.masked else None
            masks = {task: kernels.native(self.masks[task][name], 1) for task in part.masked}
            for k, begin in enumerate(range(0, part.n, part.chunk)):
                span = slice(begin, min(part.n, begin + part.chunk))
                bits = slice(begin // 8, (span.stop + 7) // 8)
                yield Sum(
                    part.live.dtype,
                    w_N[span],
                    w0_N[span],
                    None if d_N is None else d_N[span],
                    {task: mask_P[bits] for task, mask_P in masks.items()},
                    {task: placed[task, name][k] for task in part.tasks},
                    kernels,
                )
