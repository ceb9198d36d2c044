"""Swaps the part of a live model that is on one device, with D and the masks beside it.

All masks of a task lie in one arena. A tensor's bits have the same offset for every task, a
multiple of 64 bytes. A swap goes through the arena in units. A unit is swapped as a whole or not at
all, so a swap that fails between two units can be undone.

Legend: P = bytes of an arena or of a part of it, 8 weights each, LSB first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from taskstore.kernels.dispatch import kernel_for
from taskstore.swap.memory import SwapMemory, add, blank
from taskstore.swap.rest_units import Rests, RestUnit
from taskstore.swap.states import Added, Masked, State, Valued, weight_bytes

Bytes = NDArray[np.uint8]
ALIGN = 64
UNIT = 4 << 20  # mask bytes that are swapped as one at most: 2^25 weights, one transfer
LEAST = 1 << 17  # on the CPU, where threads share the units: fewer bytes are not worth the call
BLOCK = 1 << 18  # weights that are foreseen at once, so that they stay in a core's cache
SHARES = 64  # and so many units, so that no thread waits long for the last


@dataclass(frozen=True)
class Piece:
    """Some weights of one tensor: native views of W and D, and their bits in the arena."""

    w_N: Any
    d_N: Any
    begin: int
    end: int


@dataclass(frozen=True)
class Masks:
    """A unit: pieces whose bits are bytes [begin, end) of the arena."""

    begin: int
    end: int
    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class Copy:
    """A unit too: content of a tensor that is each task's own; state -> uint8 (bytes,)."""

    live: Tensor
    contents: Mapping[State, Tensor]

    def move(self, old: State, new: State) -> None:
        with torch.inference_mode():
            self.live.copy_(self.contents[new])


Unit = Masks | Copy | RestUnit


class Lane:
    """D, T arenas and what tasks have of their own, all on the device of the weights.

    Its size is known when it is made; then `allocate`, fill the targets, `start`, and `run`.
    """

    def __init__(
        self,
        device: torch.device,
        masked: Sequence[Masked],
        added: Sequence[Added],
        valued: Sequence[Valued],
    ) -> None:
        self.rests = Rests(device, self._store(device), added)
        self.device, self.masked, self.valued = device, masked, valued
        self._swap, self._native = kernel_for(device)
        self._offsets, position = [], 0
        for part in masked:
            self._offsets.append(position)
            position += -(-part.n // (8 * ALIGN)) * ALIGN
        self.arena = position
        share = max(LEAST, -(-position // (SHARES * ALIGN)) * ALIGN)
        self.unit = min(UNIT, max(ALIGN, share if device.type == "cpu" else position))

    @property
    def store(self) -> torch.device:
        """Where the masks and the tasks' own tensors wait."""
        return self._store(self.device)

    def _store(self, device: torch.device) -> torch.device:
        return device

    @property
    def parallel(self) -> bool:
        """Whether several threads may share a `run`."""
        return self.device.type == "cpu"

    def memory(self, tasks: int) -> SwapMemory:
        """What `allocate` makes for so many tasks; live weights not counted."""
        own = [
            len(set(part.keys.values())) * (part.live.nbytes - part.start) for part in self.valued
        ]
        delta = sum(weight_bytes(part) for part in self.masked)
        mine = SwapMemory(delta=delta, masks=tasks * self.arena, values=sum(own))
        return add([mine, self.rests.memory()])

    def allocate(self, tasks: Sequence[str]) -> None:
        """Memory for all of it; masks start as all zero."""
        self.deltas = [blank(weight_bytes(part), self.device) for part in self.masked]
        self.masks = {task: blank(self.arena, self.store) for task in tasks}
        self.contents = [
            {key: blank(part.live.nbytes - part.start, self.store) for key in part.keys.values()}
            for part in self.valued
        ]
        self._zeros = blank(self.unit, self.store)
        self.rests.allocate(tasks)

    def delta_targets(self) -> list[tuple[str, Tensor]]:
        """Where D goes: (tensor of the store, uint8 memory)."""
        mine = [(part.source, d) for part, d in zip(self.masked, self.deltas, strict=True)]
        return mine + self.rests.delta_targets()

    def mask_targets(self, task: str) -> list[tuple[str, Tensor]]:
        """Where a task's masks go: (tensor of the store, uint8 memory)."""
        mine = [
            (part.source, self.masks[task][begin : begin + (part.n + 7) // 8])
            for part, begin in zip(self.masked, self._offsets, strict=True)
            if task in part.tasks
        ]
        return mine + self.rests.mask_targets(task)

    def content_targets(self, state: State) -> list[tuple[str, int, str, Tensor]]:
        """Where contents go that no state before this one has.

        (name, first byte, dtype, uint8 memory).
        """
        return [
            (part.names[state], part.start, part.live.dtype, contents[part.keys[state]])
            for part, contents in zip(self.valued, self.contents, strict=True)
            if next(s for s, key in part.keys.items() if key == part.keys[state]) == state
        ]

    def start(self, state: State) -> None:
        """Begin, when all is filled and this state is live."""

    def close(self) -> None:
        """Release what is more than memory."""

    @property
    def parts(self) -> list[Masked | Added]:
        """What is not copied whole."""
        return [*self.masked, *self.rests.parts]

    def foreseen(self, i: int, old: State, new: State) -> Iterator[Bytes]:
        """Give the bytes of the tensor of part `i` after a swap, in blocks; it stays as it is.

        A block is good until the next one. The state None gives the base's elements alone.
        """
        part = self.parts[i]
        if isinstance(part, Masked):
            blocks = self._flipped(i, old, new)
        else:
            blocks = self.rests.foreseen(part, new)
        yield from map(_on_host, blocks)
        for own, contents in zip(self.valued, self.contents, strict=True):
            if own.live is part.live and new is not None:
                yield _on_host(contents[own.keys[new]])

    def _flipped(self, i: int, old: State, new: State) -> Iterator[Any]:
        """A masked part's weights, copied and flipped from one state to another."""
        part, begin = self.masked[i], self._offsets[i]
        size = part.live.tensor.element_size()

        def bits(state: State, at: int, stop: int) -> Any:
            if state is None:
                return self._native(blank(stop - at, self.device), 1)
            return self._native(self.masks[state][at:stop].to(self.device), 1)

        block = BLOCK if self.device.type == "cpu" else 8 * UNIT
        room = torch.empty(min(part.n, block) * size, dtype=torch.uint8, device=self.device)
        for at in range(0, part.n, block):
            stop = min(part.n, at + block)
            span, own = slice(at * size, stop * size), (begin + at // 8, begin + (stop + 7) // 8)
            w_N = self._native(room[: (stop - at) * size].copy_(part.live.flat[span]), size)
            d_N = self._native(self.deltas[i][span], size)
            self._swap(bits(old, *own), bits(new, *own), d_N, w_N)
            yield w_N

    def units(self) -> list[Unit]:
        """Everything a swap goes through, in order of memory."""
        pieces: list[list[Piece]] = [[] for _ in range(0, self.arena, self.unit)]
        for part, d, offset in zip(self.masked, self.deltas, self._offsets, strict=True):
            size = part.live.tensor.element_size()
            w_N, d_N = self._native(part.live.flat, size), self._native(d, size)
            begin, end = offset, offset + (part.n + 7) // 8
            while begin < end:
                stop = min(end, (begin // self.unit + 1) * self.unit)
                at, to = 8 * (begin - offset), min(part.n, 8 * (stop - offset))
                piece = Piece(w_N[at:to], d_N[at:to], begin, stop)
                pieces[begin // self.unit].append(piece)
                begin = stop
        found: list[Unit] = [
            Masks(k * self.unit, min(self.arena, (k + 1) * self.unit), tuple(inside))
            for k, inside in enumerate(pieces)
        ]
        for own, contents in zip(self.valued, self.contents, strict=True):
            by_state = {state: contents[key] for state, key in own.keys.items()}
            found.append(Copy(own.live.flat[own.start :], by_state))
        return [*found, *self.rests.units()]

    def run(self, units: Iterator[Unit], old: State, new: State, done: list[Unit]) -> None:
        """Swap all units that `units` still has; each that is whole goes to `done`.

        A unit that raises is as it was.
        """
        for unit in units:
            if isinstance(unit, Copy | RestUnit):
                unit.move(old, new)
            else:
                self._flip(unit, self._bits_of(unit, old), self._bits_of(unit, new))
            done.append(unit)

    def _bits_of(self, unit: Masks, state: State) -> Tensor:
        if state is None:
            return self._zeros[: unit.end - unit.begin]
        return self.masks[state][unit.begin : unit.end]

    def _flip(self, unit: Masks, old_P: Tensor, new_P: Tensor) -> None:
        """Swap the pieces of a unit; XOR undoes itself, so a failure takes back those before."""
        old, new = self._native(old_P, 1), self._native(new_P, 1)
        done = 0
        try:
            for piece in unit.pieces:
                self._flip_piece(unit, piece, old, new)
                done += 1
        except BaseException:
            for piece in unit.pieces[:done]:
                self._flip_piece(unit, piece, old, new)
            raise

    def _flip_piece(self, unit: Masks, piece: Piece, old_P: Any, new_P: Any) -> None:
        bits = slice(piece.begin - unit.begin, piece.end - unit.begin)
        self._swap(old_P[bits], new_P[bits], piece.d_N, piece.w_N)


def _on_host(w_N: Any) -> Bytes:
    """Bytes of a native array."""
    array: Any = w_N.view(torch.uint8).cpu().numpy() if isinstance(w_N, Tensor) else w_N
    return np.asarray(array).view(np.uint8)
