"""What lies beside the live weights: D, and an arena of masks per task that comes and goes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace

from torch import Tensor

from taskstore import devices
from taskstore.errors import SwapError
from taskstore.swap import memory
from taskstore.swap.binding import Live
from taskstore.swap.lane import Lane
from taskstore.swap.staged import Pinned, StagedLane
from taskstore.swap.states import Masked

WAY_OUT = "serve fewer tasks"


class Beside:
    """All of it on the device of the weights, but masks in host memory where that was asked for."""

    def __init__(self, lives: Sequence[Live], tasks: Sequence[str], masks: str) -> None:
        """Raises SwapError for weights on several devices, and NotEnoughMemory by parts."""
        found = {live.tensor.device for live in lives}
        if len(found) != 1:
            raise SwapError(f"the engine's weights are on {len(found)} devices; use one a worker")
        device = found.pop()
        kind = Lane if device.type == "cpu" or masks == "device" else StagedLane
        parts = [Masked(live, live.name, live.tensor.numel(), frozenset()) for live in lives]
        self.lane = kind(device, parts, (), ())
        memory.require([(device, self.lane.memory(len(tasks)))])
        self.lane.allocate(())
        self.deltas = dict(self.lane.delta_targets())
        self._pins: dict[str, Pinned] = {}

    @property
    def tasks(self) -> list[str]:
        return list(self.lane.masks)

    def add(self, task: str) -> dict[str, Tensor]:
        """Memory for a task's masks, all zero: live tensor -> where its bits go."""
        lane = self.lane
        devices.require(lane.store, {f"masks of {task!r}": lane.arena}, WAY_OUT)
        arena = memory.blank(lane.arena, lane.store)
        if lane.device.type == "cuda" and lane.store.type == "cpu":
            self._pins[task] = Pinned(arena)
        lane.masks[task], lane.additions.masks[task] = arena, {}
        lane.masked = [replace(part, tasks=part.tasks | {task}) for part in lane.masked]
        return dict(lane.mask_targets(task))

    def remove(self, task: str) -> None:
        """Give the memory back."""
        if task in self._pins:
            self._pins.pop(task).close()
        lane = self.lane
        lane.masked = [replace(part, tasks=part.tasks - {task}) for part in lane.masked]
        del lane.masks[task], lane.additions.masks[task]

    def task_bytes(self, task: str) -> int:
        return self.lane.masks[task].numel()

    def bytes(self) -> dict[str, int]:
        """What it takes, by use."""
        found = asdict(self.lane.memory(len(self.tasks)))
        return {use: size for use, size in found.items() if size and use != "masks_on_host"}
