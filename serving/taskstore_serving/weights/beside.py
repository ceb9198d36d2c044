"""What lies beside the live weights: D, and masks and vectors of tasks that come and go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace

from torch import Tensor

from taskstore import devices
from taskstore.errors import SwapError
from taskstore.format.manifest import Manifest
from taskstore.swap import memory
from taskstore.swap.binding import Live
from taskstore.swap.lane import Lane
from taskstore.swap.memory import SwapMemory
from taskstore.swap.staged_lane import Pinned, StagedLane
from taskstore.swap.states import Masked
from taskstore_serving.weights.learning import regions
from taskstore_serving.weights.rests import Rests
from taskstore_serving.weights.spans import Span
from taskstore_serving.weights.streams import Streams

WAY_OUT = "serve fewer tasks"


class Beside:
    """All of it on the device of the weights, but masks in host memory where that was asked for."""

    def __init__(
        self,
        lives: Sequence[Live],
        spans: Sequence[Span],
        manifest: Manifest,
        streams: Streams,
        tasks: Sequence[str],
        masks: str,
    ) -> None:
        """D is blank memory yet. Raises SwapError for weights on several devices, and
        NotEnoughMemory, with the sum by parts, before anything is allocated.
        """
        found = {live.tensor.device for live in lives}
        if len(found) != 1:
            raise SwapError(f"the engine's weights are on {len(found)} devices; use one a worker")
        device = found.pop()
        kind = Lane if device.type == "cpu" or masks == "device" else StagedLane
        self.regions = list(regions(lives, spans))
        parts = [
            Masked(part.live, part.live.name, part.live.tensor.numel(), frozenset())
            for part in self.regions
        ]
        self.lane = kind(device, parts, (), ())
        self.rests = Rests(device, self.lane.store, manifest, spans)
        self._fixed = self.rests.fixed(streams)
        wanted = [
            self.lane.memory(len(tasks)),
            self._fixed,
            self.rests.memory_of(tasks, streams),
        ]
        memory.require([(device, memory.add(wanted))])
        self.lane.allocate(())
        self.deltas = dict(self.lane.delta_targets())
        self.spanned = {span.live.name for span in spans}
        self._pins: dict[str, Pinned] = {}

    @property
    def tasks(self) -> list[str]:
        return list(self.lane.masks)

    @property
    def lanes(self) -> list[Lane]:
        return [self.lane, self.rests]

    def swaps(self, live: Live) -> bool:
        """Whether a swap may write this tensor."""
        mine = (part.live.name for part in self.regions if part.whole is live)
        return live.name in self.spanned or any(bool(self.deltas[name].any()) for name in mine)

    def add(self, task: str, streams: Streams) -> dict[str, Tensor]:
        """Room for a task, its vectors read; region -> all zero memory where its bits go."""
        lane = self.lane
        bits, more = lane.arena, self.rests.memory_of([task], streams)
        parts = {f"masks of {task!r}": bits + more.masks, f"vectors of {task!r}": more.vectors}
        devices.require(lane.store, parts, WAY_OUT)
        arena = memory.blank(bits, lane.store)
        if lane.device.type == "cuda" and lane.store.type == "cpu":
            self._pins[task] = Pinned(arena)
        lane.masks[task], lane.additions.masks[task] = arena, {}
        lane.masked = [replace(part, tasks=part.tasks | {task}) for part in lane.masked]
        try:
            self.rests.learn(task, streams)
        except BaseException:
            self.remove(task)
            raise
        return self.masks(task)

    def masks(self, task: str) -> dict[str, Tensor]:
        """Region -> its bits, LSB first."""
        return dict(self.lane.mask_targets(task))

    def remove(self, task: str) -> None:
        """Give the memory back."""
        if task in self._pins:
            self._pins.pop(task).close()
        lane = self.lane
        lane.masked = [replace(part, tasks=part.tasks - {task}) for part in lane.masked]
        del lane.masks[task], lane.additions.masks[task]
        self.rests.forget(task)

    def task_bytes(self, task: str) -> int:
        return self.lane.masks[task].numel() + self.rests.taken[task].total

    def bytes(self) -> dict[str, int]:
        """What it takes, by use."""
        parts = [self.lane.memory(len(self.tasks)), self._fixed, *self.rests.taken.values()]
        total = memory.add(parts)
        sizes = {one.name: getattr(total, one.name) for one in fields(SwapMemory)}
        del sizes["masks_on_host"]
        return {use: size for use, size in sizes.items() if size}
