"""What lies beside the live weights: D, and masks and rests of tasks that come and go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Protocol

from torch import Tensor

from taskstore import devices
from taskstore.errors import SwapError
from taskstore.format.dtypes import vector_bytes
from taskstore.kernels.quantise import Quantised
from taskstore.swap import memory
from taskstore.swap.binding import Live
from taskstore.swap.lane import Lane
from taskstore.swap.memory import SwapMemory
from taskstore.swap.staged_lane import Pinned, StagedLane
from taskstore.swap.states import Added, Masked
from taskstore_serving.weights.learning import regions
from taskstore_serving.weights.spans import TensorSpan
from taskstore_serving.weights.streams import Streams

WAY_OUT = "serve fewer tasks"


class Follower(Protocol):
    """What refers to masks and rests, and is told of tasks that come and go."""

    def learn(self, task: str) -> None:
        """Take up a task, whose memory is filled."""

    def forget(self, task: str) -> None:
        """Let a task go, also one that it has not."""

    def rename(self, task: str, name: str) -> None:
        """Keep all of a task under another name."""


class Beside:
    """One lane of `taskstore.swap` on the device of the weights.

    A span is rebuilt from the base's weights at each swap, a region selects by a mask.
    """

    follower: Follower | None = None

    def __init__(
        self, lives: Sequence[Live], spans: Sequence[TensorSpan], streams: Streams, masks: str
    ) -> None:
        """Allocate D and the base's weights of the spans, all zero yet.

        Raises SwapError for weights on several devices, and NotEnoughMemory, with the sum by
        parts, before anything is allocated.
        """
        found = {live.tensor.device for live in lives}
        if len(found) != 1:
            raise SwapError(f"the engine's weights are on {len(found)} devices; use one a worker")
        device = found.pop()
        kind = Lane if device.type == "cpu" or masks == "device" else StagedLane
        self.regions = list(regions(lives, spans))
        masked = [
            Masked(part.live, part.live.name, part.live.tensor.numel(), frozenset())
            for part in self.regions
        ]
        chunk, merged = streams.manifest.chunk, streams.differing([span.source for span in spans])
        added = [
            Added(span.piece, span.source, span.n, chunk, {}, set(), span.source in merged)
            for span in spans
        ]
        self.lane = kind(device, masked, added, ())
        for task in streams.tasks:
            self._expect(task, streams)
        memory.require([(device, self.lane.memory(len(streams.tasks)))])
        self.lane.allocate(())
        self.deltas = dict(self.lane.delta_targets()[: len(masked)])  # the regions' come first
        self.spans = list(spans)
        self.spanned = {span.live.name for span in spans}
        self._pins: dict[str, Pinned] = {}

    def keep_base(self, streams: Streams) -> None:
        """Keep the base's weights of the spans, which are live, and read D there."""
        rests = self.lane.rests
        for part in rests.parts:
            rests.bases[part.source].copy_(part.live.flat)
        streams.deltas(rests.delta_targets())

    def swaps(self, live: Live) -> bool:
        """Whether a swap may write this tensor."""
        mine = (part.live.name for part in self.regions if part.whole is live)
        return live.name in self.spanned or any(bool(self.deltas[name].any()) for name in mine)

    def add(self, task: str, streams: Streams) -> dict[str, Tensor]:
        """Make room for a task and read its rests; region -> zero memory where its bits go."""
        lane = self.lane
        self._expect(task, streams)
        try:
            more = lane.rests.memory_of(task)
            bits = {f"masks of {task!r}": lane.arena + more.masks}
            devices.require(lane.store, {**bits, f"vectors of {task!r}": more.vectors}, WAY_OUT)
            arena = lane.masks[task] = memory.blank(lane.arena, lane.store)
            if lane.device.type == "cuda" and lane.store.type == "cpu":
                self._pins[task] = Pinned(arena)
            self._read_rests(task, streams)
        except BaseException:
            self.remove(task)
            raise
        return self.masks(task)

    def _read_rests(self, task: str, streams: Streams) -> None:
        """Read a task's masks and vectors of the spans."""
        rests = self.lane.rests
        rests.add(task)
        streams.masks(task, rests.mask_targets(task))
        for name, chunks in streams.vectors(task, rests.vector_targets(task)):
            rests.place(task, name, chunks)
            for part in rests.parts:
                if part.source == name:
                    part.vectors[task] = sum(map(_bytes, chunks))

    def _expect(self, task: str, streams: Streams) -> None:
        """Tell the lane which parts a task has, and about what its vectors take."""
        lane, manifest = self.lane, streams.manifest
        lane.masked = [replace(part, tasks=part.tasks | {task}) for part in lane.masked]
        masked, rest = streams.tier(task, "mask"), streams.tier(task, "rest")
        for part in lane.rests.parts:
            if part.source in masked:
                part.masked.add(task)
            if part.source in rest:
                bits, shape = manifest.tasks[task].bits or 0, manifest.tensors[part.source].shape
                part.vectors[task] = vector_bytes(bits, shape)

    def learned(self, task: str) -> None:
        """Say that a task's masks are filled."""
        if self.follower is not None:
            self.follower.learn(task)

    def masks(self, task: str) -> dict[str, Tensor]:
        """Region -> its bits, LSB first."""
        return dict(self.lane.mask_targets(task)[: len(self.regions)])  # the spans' come after

    def remove(self, task: str) -> None:
        """Give the memory back; also of a task that was added by half."""
        if self.follower is not None:
            self.follower.forget(task)
        if task in self._pins:
            self._pins.pop(task).close()
        lane = self.lane
        lane.masked = [replace(part, tasks=part.tasks - {task}) for part in lane.masked]
        lane.masks.pop(task, None)
        lane.rests.remove(task)

    def rename(self, task: str, name: str) -> None:
        """Keep all of a task under another name, which is free."""
        lane = self.lane
        lane.masked = [
            replace(part, tasks=part.tasks - {task} | {name}) if task in part.tasks else part
            for part in lane.masked
        ]
        lane.masks[name] = lane.masks.pop(task)
        lane.rests.rename(task, name)
        if self.follower is not None:
            self.follower.rename(task, name)
        if task in self._pins:
            self._pins[name] = self._pins.pop(task)

    def task_bytes(self, task: str) -> int:
        """Bytes of a task's masks and vectors."""
        return self.lane.masks[task].numel() + self.lane.rests.memory_of(task).total

    def bytes(self) -> dict[str, int]:
        """Bytes that all of it takes, by use."""
        total = self.lane.memory(len(self.lane.masks))
        sizes = {one.name: getattr(total, one.name) for one in fields(SwapMemory)}
        del sizes["masks_on_host"]
        return {use: size for use, size in sizes.items() if size}


def _bytes(vector: Quantised) -> int:
    arrays = (vector.symbols, vector.rows.codes_R, vector.where_E, vector.z_E)
    return sum(array.nbytes for array in arrays)
