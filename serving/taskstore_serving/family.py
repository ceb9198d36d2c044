"""D and the masks of a family beside the live weights of an engine, whatever its layout.

An engine fuses, shards, pads and ties: its parameters are not the checkpoint's tensors. But its own
`load_weights` knows where each checkpoint weight goes. So W0, W1 and each W_t go through it, and D
and masks are read off what it wrote:

    D = load(W0) ^ load(W1)     m_t = [load(W_t) ^ load(W0) != 0]

Every element of load(W_t) ^ load(W0) must be 0 or that of D, which proves that swapping by D and
m_t gives exactly what loading W_t would. It is done layer by layer: beside live weights, D and
masks there is one layer in memory.

Afterwards the engine may prepare its weights for computing. `guard` refuses an engine that moved,
resized or changed one that a swap would write.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from taskstore.errors import SwapError, UnknownTask
from taskstore.format.digests import check_files
from taskstore.parallel import default_jobs
from taskstore.store import Store
from taskstore.swap import memory
from taskstore.swap.binding import Live
from taskstore.swap.digests import live_digests
from taskstore.swap.lane import Lane
from taskstore.swap.move import Mover, NotUndone
from taskstore.swap.staged import StagedLane
from taskstore.swap.states import Masked, State
from taskstore_serving.streams import Streams, check_servable, layers

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Family:
    """What a worker swaps. One thread at a time."""

    def __init__(
        self,
        model: nn.Module,
        store: Store,
        tasks: Sequence[str],
        masks: Literal["host", "device"] = "host",
    ) -> None:
        """Fill a model with the base and learn the tasks.

        Raises UnknownTask, SwapError for a model or task that cannot be swapped, NotEnoughMemory,
        FormatError, ChecksumMismatch.
        """
        for task in tasks:
            store.check_task(task)
        check_servable(store.manifest, tasks)
        self.tasks = list(tasks)
        self.active: State = None
        self.swaps, self.seconds = 0, 0.0
        jobs = default_jobs()
        files = [f for f in store.files_of(None, *tasks, tier="mask") if not f.startswith("assets")]
        check_files(store.path, store.manifest.files, files, jobs)
        with Streams(store, tasks, jobs) as streams:
            names = list(store.manifest.tensors)
            self.lives = _written(model, _load(model, streams.base(names)))
            self._lane = self._room(masks)
            self._deltas = dict(self._lane.delta_targets())
            for layer in layers(names):
                self._learn(model, streams, layer)
        self._lane.start(None)
        self._pool = ThreadPoolExecutor(jobs, thread_name_prefix="taskstore-swap")
        self._mover: Mover | None = Mover([self._lane], self._pool, jobs)
        self._before = self.digests()

    def swap(self, task: State) -> None:
        """Make a task live, or the base (None). Raises UnknownTask or SwapError."""
        if task is not None and task not in self.tasks:
            raise UnknownTask(task, self.tasks)
        if self._mover is None:
            raise SwapError("nobody knows what is live since a swap failed; start the engine again")
        if task == self.active:
            return
        began = time.perf_counter()
        try:
            self._mover.move(self.active, task, self._mover.streams())
        except NotUndone:
            self._mover = None
            raise
        self.active = task
        self.swaps += 1
        self.seconds += time.perf_counter() - began

    def digests(self) -> dict[str, str]:
        """Name of each live tensor -> BLAKE3 of its bytes."""
        return live_digests(self.lives, default_jobs())

    def guard(self, model: nn.Module) -> None:
        """Raise SwapError unless the model computes from the very memory that swaps write."""
        tensors, now = _tensors(model), self.digests()
        for live in self.lives:
            if not bool(self._deltas[live.name].any()):
                continue
            there, problem = tensors.get(live.name), ""
            if there is None or there.numel() != live.tensor.numel():
                problem = "was removed or resized"
            elif there.data_ptr() != live.tensor.data_ptr():
                problem = "was moved"
            elif now[live.name] != self._before[live.name]:
                problem = "was changed"
            if problem:
                raise SwapError(
                    f"weight {live.name!r} {problem} when the engine prepared it for computing, "
                    "so tasks cannot be swapped in it; serve this model's tasks unpacked"
                )

    def _room(self, masks: Literal["host", "device"]) -> Lane:
        devices = {live.tensor.device for live in self.lives}
        if len(devices) != 1:
            raise SwapError(f"the engine's weights are on {len(devices)} devices; use one a worker")
        device, every = devices.pop(), frozenset(self.tasks)
        kind = Lane if device.type == "cpu" or masks == "device" else StagedLane
        parts = [Masked(live, live.name, live.tensor.numel(), every) for live in self.lives]
        lane = kind(device, parts, (), ())
        memory.require([(device, lane.memory(len(self.tasks)))])
        lane.allocate(self.tasks)
        return lane

    def _learn(self, model: nn.Module, streams: Streams, names: Sequence[str]) -> None:
        """D and masks of one layer; the base is live again when it returns."""
        if not streams.differing(names):
            return
        written = _load(model, streams.base(names))
        mine = {live.name: live for live in _written(model, written)}
        before = {name: _integers(live.tensor).clone() for name, live in mine.items()}
        self._expect(_load(model, streams.multitask(names)), written)
        for name, live in mine.items():
            delta = _integers(live.tensor) ^ before[name]
            self._deltas[name].copy_(delta.view(torch.uint8))
        for task in self.tasks:
            self._expect(_load(model, streams.task(task, names)), written)
            masks = dict(self._lane.mask_targets(task))
            for name, live in mine.items():
                changed = _integers(live.tensor) ^ before[name]
                delta = self._deltas[name].view(changed.dtype)
                if bool(((changed != 0) & (changed != delta)).any()):
                    raise SwapError(
                        f"weight {name!r} of task {task!r} is no selection between the base's and "
                        "the multi-task model's once it is loaded; leave the task out"
                    )
                packed = np.packbits((changed != 0).cpu().numpy(), bitorder="little")
                masks[name].copy_(torch.from_numpy(packed))
        for name, live in mine.items():
            _integers(live.tensor).copy_(before[name])

    def _expect(self, written: set[str], first: set[str]) -> None:
        if written != first:
            name = min(written ^ first)
            raise SwapError(f"the engine's loader wrote {name!r} for some of the models only")


def _load(model: nn.Module, weights: Iterator[tuple[str, Tensor]]) -> set[str]:
    """Names of the parameters that the model's own loader wrote."""
    with torch.no_grad():
        written = model.load_weights(weights)  # type: ignore[operator]
    if written is None:
        kind = type(model).__name__
        raise SwapError(f"{kind}'s loader does not tell what it wrote, so it cannot be served")
    return set(written)


def _tensors(model: nn.Module) -> Mapping[str, Tensor]:
    parameters = model.named_parameters(remove_duplicate=False)
    buffers = model.named_buffers(remove_duplicate=False)
    return {name: tensor.data for name, tensor in (*parameters, *buffers)}


def _written(model: nn.Module, names: set[str]) -> list[Live]:
    """Those tensors, each memory once, under the first of its names."""
    tensors, found = _tensors(model), dict[int, Live]()
    for name in sorted(names):
        tensor = tensors.get(name)
        if tensor is None or not tensor.is_contiguous() or type(tensor) is not Tensor:
            raise SwapError(f"weight {name!r} is no plain dense tensor of the engine's model")
        if tensor.numel():
            found.setdefault(tensor.data_ptr(), Live((name,), tensor))
    return list(found.values())


def _integers(tensor: Tensor) -> Tensor:
    return tensor.view(-1).view(_INTEGERS[tensor.element_size()])
