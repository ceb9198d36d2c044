"""Learns D and masks from what an engine's own loader writes, a group of tensors at a time.

    D = load(W0) ^ load(W1)     m_t = [load(W_t) ^ load(W0) != 0]

Every element of load(W_t) ^ load(W0) must be 0 or that of D. This proves that swapping by D and m_t
gives exactly what loading W_t would. The base is live before and after. Memory holds one group
beside live weights, D and masks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from taskstore.errors import SwapError
from taskstore.swap.binding import Live
from taskstore.swap.identify import live_digests
from taskstore_serving.weights import parameters
from taskstore_serving.weights.groups import LoadGroup, kept, write
from taskstore_serving.weights.spans import TensorSpan
from taskstore_serving.weights.streams import Streams

BLOCK = 1 << 22  # weights that are compared at once


@dataclass(frozen=True)
class Region:
    """A live tensor, or elements of one from `start` on, that swaps select by a mask."""

    whole: Live
    start: int
    live: Live


def regions(lives: Iterable[Live], spans: Iterable[TensorSpan]) -> Iterator[Region]:
    """Parts of live tensors that no span covers."""
    taken: dict[str, list[TensorSpan]] = {}
    for span in spans:
        taken.setdefault(span.live.name, []).append(span)
    for live in lives:
        flat, at = live.tensor.view(-1), 0
        if live.name not in taken:
            yield Region(live, 0, live)
            continue
        ends = sorted((span.start, span.start + span.n) for span in taken[live.name])
        for start, stop in (*ends, (flat.numel(), 0)):
            if start > at:
                yield Region(live, at, Live((f"{live.name}[{at}:{start}]",), flat[at:start]))
            at = stop


class Learner:
    """Learns from one store into one model."""

    def __init__(
        self, model: nn.Module, streams: Streams, deltas: Mapping[str, Tensor], parts: list[Region]
    ) -> None:
        self._model, self._streams, self._deltas = model, streams, deltas
        self._parts: dict[str, list[Region]] = {}
        for part in parts:
            self._parts.setdefault(part.whole.name, []).append(part)

    def delta(self, group: LoadGroup) -> None:
        """Fill D of a group."""
        if not self._streams.differing(group.names):
            return
        with kept(group) as before:
            write(self._model, group, self._streams.multitask(group.names), "the multi-task model")
            for part, before_N in self._with(group, before):
                d_N = self._deltas[part.live.name].view(before_N.dtype)
                d_N.copy_(parameters.integers(part.live.tensor)).bitwise_xor_(before_N)

    def task(self, group: LoadGroup, task: str, masks: Mapping[str, Tensor]) -> dict[str, str]:
        """Fill a task's masks of a group; give digests of live tensors in which it may differ."""
        if not self._streams.changed(task, group.names):
            return {}
        with kept(group) as before:
            write(self._model, group, self._streams.task(task, group.names), f"task {task!r}")
            for part, before_N in self._with(group, before):
                name = part.live.name
                d_N = self._deltas[name].view(before_N.dtype)
                if not select(parameters.integers(part.live.tensor), before_N, d_N, masks[name]):
                    raise SwapError(
                        f"weight {name!r} of task {task!r} is no selection between the base's and "
                        "the multi-task model's once it is loaded; leave the task out"
                    )
            return live_digests(group.lives, self._streams.executor.jobs)

    def _with(
        self, group: LoadGroup, before: Mapping[str, Tensor]
    ) -> Iterator[tuple[Region, Tensor]]:
        """The regions of a group and what they held before."""
        for live in group.lives:
            for part in self._parts.get(live.name, ()):
                span = slice(part.start, part.start + part.live.tensor.numel())
                yield part, before[live.name][span]


def select(now_N: Tensor, before_N: Tensor, d_N: Tensor, target_P: Tensor) -> bool:
    """Pack where weights differ from the base's; False where one is neither its nor W1's."""
    for at in range(0, now_N.numel(), BLOCK):
        block = slice(at, at + BLOCK)
        changed = now_N[block] ^ before_N[block]
        moved = changed != 0
        if bool((moved & (changed != d_N[block])).any()):
            return False
        packed = torch.from_numpy(np.packbits(moved.cpu().numpy(), bitorder="little"))
        target_P[at // 8 : at // 8 + packed.numel()].copy_(packed)
    return True
