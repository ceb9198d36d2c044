"""D and masks read off what an engine's own loader writes, a group of tensors at a time.

    D = load(W0) ^ load(W1)     m_t = [load(W_t) ^ load(W0) != 0]

Every element of load(W_t) ^ load(W0) must be 0 or that of D, which proves that swapping by D and
m_t gives exactly what loading W_t would. The base is live before and after; beside live weights, D
and masks there is one group in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from taskstore.errors import SwapError
from taskstore.parallel import default_jobs
from taskstore.swap.binding import Live
from taskstore.swap.digests import live_digests
from taskstore_serving import weights
from taskstore_serving.streams import Streams, layers

BLOCK = 1 << 22  # weights that are compared at once


@dataclass(frozen=True)
class Group:
    """Tensors of the store, and the memory that they and no others fill.

    written   what the loader says that it wrote
    """

    names: tuple[str, ...]
    written: frozenset[str]
    lives: tuple[Live, ...]


def fill(model: nn.Module, streams: Streams) -> list[Group]:
    """Load the base; layers that fill the same memory, tied or fused, become one group."""
    found: list[tuple[list[str], set[str], set[int]]] = []
    for layer in layers(streams.names):
        names, written = list(layer), weights.load(model, streams.base(layer))
        places = {live.tensor.data_ptr() for live in weights.lives(model, written)}
        for other in [one for one in found if one[2] & places]:
            found.remove(other)
            names, written, places = other[0] + names, other[1] | written, other[2] | places
        found.append((names, written, places))
    return [
        Group(tuple(names), frozenset(written), tuple(weights.lives(model, written)))
        for names, written, _ in found
    ]


@contextmanager
def kept(group: Group) -> Iterator[dict[str, Tensor]]:
    """Copies of a group's weights by name, which are live again when the block ends."""
    before = {live.name: weights.integers(live.tensor).clone() for live in group.lives}
    try:
        yield before
    finally:
        for live in group.lives:
            weights.integers(live.tensor).copy_(before[live.name])


def write(
    model: nn.Module, group: Group, tensors: Iterator[tuple[str, Tensor]], whose: str
) -> None:
    """Load some tensors of a group."""
    if stray := weights.load(model, tensors) - group.written:
        raise SwapError(f"the engine's loader wrote {min(stray)!r} for {whose} only")


def delta(live: Live, before: Tensor, target: Tensor) -> None:
    """D of a live tensor that holds W1, into uint8 memory."""
    target.copy_((weights.integers(live.tensor)).view(torch.uint8))
    target.view(before.dtype).bitwise_xor_(before)


def select(live: Live, before: Tensor, delta: Tensor, target: Tensor) -> bool:
    """Where a live tensor differs from the base, packed into uint8 memory.

    False where an element is neither the base's nor the multi-task model's.
    """
    now, delta = weights.integers(live.tensor), delta.view(before.dtype)
    for at in range(0, now.numel(), BLOCK):
        block = slice(at, at + BLOCK)
        changed = now[block] ^ before[block]
        moved = changed != 0
        if bool((moved & (changed != delta[block])).any()):
            return False
        packed = torch.from_numpy(np.packbits(moved.cpu().numpy(), bitorder="little"))
        target[at // 8 : at // 8 + packed.numel()].copy_(packed)
    return True


def learn_delta(
    model: nn.Module, streams: Streams, group: Group, deltas: Mapping[str, Tensor]
) -> None:
    if not streams.differing(group.names):
        return
    with kept(group) as before:
        write(model, group, streams.multitask(group.names), "the multi-task model")
        for live in group.lives:
            delta(live, before[live.name], deltas[live.name])


def learn_task(
    model: nn.Module,
    streams: Streams,
    group: Group,
    task: str,
    deltas: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
) -> dict[str, str]:
    """Fill a task's masks of a group; the digest of each live tensor in which it may differ."""
    if not streams.changed(task, group.names):
        return {}
    with kept(group) as before:
        write(model, group, streams.task(task, group.names), f"task {task!r}")
        for live in group.lives:
            name = live.name
            if not select(live, before[name], deltas[name], masks[name]):
                raise SwapError(
                    f"weight {name!r} of task {task!r} is no selection between the base's and "
                    "the multi-task model's once it is loaded; leave the task out"
                )
        return live_digests(group.lives, default_jobs())
