"""Swaps with masks that wait in host memory: the next block comes in while this one is swapped.

The device holds D, one arena with the bits of what is live, and two staging buffers. A block in
which two tasks agree is not sent. On CUDA the copies run on a stream of their own, from pinned
memory; events keep a buffer from being overwritten while a kernel still reads it. On other devices
a copy is done when it returns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any
from weakref import finalize

import torch
from torch import Tensor

from taskstore.kernels import cpu
from taskstore.swap.lane import Copy, Lane, Unit
from taskstore.swap.memory import SwapMemory
from taskstore.swap.rest_units import RestUnit
from taskstore.swap.states import State


class StagedLane(Lane):
    """T arenas in host memory, and on the device what one swap needs."""

    _pins: Sequence[Pinned] = ()

    def _store(self, device: torch.device) -> torch.device:
        return torch.device("cpu")

    @property
    def parallel(self) -> bool:
        return False

    def memory(self, tasks: int) -> SwapMemory:
        plain = super().memory(tasks)
        return replace(plain, active=self.arena, staging=2 * self.unit, masks_on_host=True)

    def allocate(self, tasks: Sequence[str]) -> None:
        super().allocate(tasks)
        self._active = torch.zeros(self.arena, dtype=torch.uint8, device=self.device)
        self._staging = Staging(self.device, self.unit)
        if self.device.type == "cuda":
            self._pins = [Pinned(arena) for arena in self.masks.values()]

    def start(self, state: State) -> None:
        if state is not None:
            self._active.copy_(self.masks[state])

    def close(self) -> None:
        for pin in self._pins:
            pin.close()
        self._pins = ()

    def run(self, units: Iterator[Unit], old: State, new: State, done: list[Unit]) -> None:
        """By one thread, queued on its current stream."""
        ahead = self._sent(units, old, new)
        following = next(ahead, None)
        while following is not None:
            (number, unit), following = following, next(ahead, None)
            if isinstance(unit, Copy | RestUnit):
                unit.move(old, new)
            else:
                active_P = self._active[unit.begin : unit.end]
                new_P = self._staging.take(number, unit.end - unit.begin)
                self._flip(unit, active_P, new_P)
                active_P.copy_(new_P)
                self._staging.release(number)
            done.append(unit)

    def _sent(self, units: Iterator[Unit], old: State, new: State) -> Iterator[tuple[int, Unit]]:
        """Units that change, numbered; the new bits of each are on their way when it comes."""
        number = 0
        for unit in units:
            if isinstance(unit, Copy | RestUnit):
                yield number, unit
                continue
            old_P, new_P = self._bits_of(unit, old), self._bits_of(unit, new)
            if cpu.differ(old_P.numpy(), new_P.numpy()):
                self._staging.send(number, new_P)
                yield number, unit
                number += 1


class Staging:
    """Buffers of `nbytes` on `device`, used in turn by number."""

    def __init__(self, device: torch.device, nbytes: int) -> None:
        self._device = device
        self._buffers = [torch.empty(nbytes, dtype=torch.uint8, device=device) for _ in range(2)]
        self._cuda = device.type == "cuda"
        if self._cuda:
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            self._ready = [_event() for _ in range(2)]
            self._free = [_event() for _ in range(2)]

    def send(self, number: int, host: Tensor) -> None:
        """Start copying host memory into a buffer that `release` has given back."""
        buffer = self._buffers[number % 2][: host.numel()]
        if not self._cuda:
            buffer.copy_(host)
            return
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(self._free[number % 2])
            buffer.copy_(host, non_blocking=True)
            self._ready[number % 2].record(self._stream)

    def take(self, number: int, nbytes: int) -> Tensor:
        """The buffer, complete for what the current stream does next."""
        if self._cuda:
            torch.cuda.current_stream(self._device).wait_event(self._ready[number % 2])
        return self._buffers[number % 2][:nbytes]

    def release(self, number: int) -> None:
        """Give the buffer back: what the current stream was told so far is the last to read it."""
        if self._cuda:
            self._free[number % 2].record(torch.cuda.current_stream(self._device))


class Pinned:
    """Page-locks memory that is there already, for as long as this object is held.

    torch's own pinned allocations are rounded up to a power of two, which would waste up to half.
    """

    def __init__(self, tensor: Tensor) -> None:
        if tensor.numel():
            pointer, size = tensor.data_ptr(), tensor.numel()
            torch.cuda.check_error(int(_runtime().cudaHostRegister(pointer, size, 0)))
            self._undo = finalize(self, _unpin, tensor)  # keeps the tensor until then

    def close(self) -> None:
        if hasattr(self, "_undo"):
            self._undo()


def _unpin(tensor: Tensor) -> None:
    _runtime().cudaHostUnregister(tensor.data_ptr())


def _event() -> torch.cuda.Event:
    return torch.cuda.Event()  # type: ignore[no-untyped-call]


def _runtime() -> Any:
    return torch.cuda.cudart()  # type: ignore[no-untyped-call]
