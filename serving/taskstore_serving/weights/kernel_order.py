"""Keeps matrices, their D and masks in the order of the CPU's kernel, so that swaps pack nothing.

On a CPU vLLM multiplies from a reordered copy and drops the original. The reordering moves weights
and changes none. So D and masks that are reordered alike swap the reordered weights, and give bit
for bit what reordering a task's weights would. Its kernel for that order takes bf16 and runs where
the processor multiplies it, with AMX or without.

The order is that of vLLM's own `convert_weight_packed`. It reorders 32 rows of a matrix at a time,
so all of this works in slabs of rows, in place.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import prod

import numpy as np
import torch
from torch import Tensor

from taskstore.executors import Executor
from taskstore.kernels.mixed.matrix import SLAB as ROWS
from taskstore.swap.binding import Live
from taskstore.swap.identify import live_digests

Shape = tuple[int, ...]  # rows, columns

SIZE = 1 << 20  # weights that are reordered at once, or 32 rows of wider matrices


class KernelOrder:
    """Live tensors, by name, that are or will be in the kernel's order."""

    def __init__(self, shapes: Mapping[str, Shape]) -> None:
        self.shapes = dict(shapes)

    def reorder(self, name: str, memory: Tensor) -> None:
        """Put weights or D of a tensor, plain so far, into the kernel's order."""
        for slab_RK in _slabs(memory, self.shapes[name]):
            slab_RK.copy_(_convert(slab_RK))

    def reorder_again(self, lives: Iterable[Live]) -> None:
        """Reorder those of these tensors that have to be, all of them plain now."""
        for live in lives:
            if live.name in self.shapes:
                self.reorder(live.name, live.tensor)

    def restore(self, name: str, memory: Tensor) -> None:
        """Undo `reorder`."""
        for slab_RK in _slabs(memory, self.shapes[name]):
            packed_N = slab_RK.reshape(-1).clone()
            slab_RK.view(-1)[_order(*slab_RK.shape)] = packed_N

    def reorder_mask(self, name: str, mask_P: Tensor) -> None:
        """Reorder a mask: a bit a weight, 8 in a byte, LSB first; 32 rows fill whole bytes."""
        bits_P, columns = mask_P.numpy(), self.shapes[name][1]
        for begin, end in _rows(self.shapes[name]):
            span = slice(begin * columns // 8, end * columns // 8)
            bits_N = np.unpackbits(bits_P[span], bitorder="little").astype(np.int16)
            moved = _convert(torch.from_numpy(bits_N).view(end - begin, columns)).numpy()
            bits_P[span] = np.packbits(moved.reshape(-1).astype(bool), bitorder="little")

    def plain(self, live: Live) -> Live:
        """A tensor in the order of a checkpoint; a copy where it is reordered."""
        if live.name not in self.shapes:
            return live
        copy = Live(live.names, live.tensor.clone())
        self.restore(live.name, copy.tensor)
        return copy

    def digests(self, lives: Sequence[Live], executor: Executor) -> dict[str, str]:
        """Name of each tensor -> BLAKE3 of it in the order of a checkpoint."""
        return dict(executor.map(_plain_digest, self, lives))

    @contextmanager
    def undone(self, lives: Iterable[Live], deltas: Mapping[str, Tensor]) -> Iterator[list[str]]:
        """Make weights and D plain in the block; gives the names of those that were not."""
        mine = [live for live in lives if live.name in self.shapes]
        memory = [(live.name, m) for live in mine for m in (live.tensor, deltas[live.name])]
        for name, one in memory:
            self.restore(name, one)
        try:
            yield [live.name for live in mine]
        finally:
            for name, one in memory:
                self.reorder(name, one)


def fits(tensor: Tensor) -> bool:
    """Whether the kernel takes this matrix."""
    return (
        tensor.dtype == torch.bfloat16
        and tensor.dim() == 2
        and tensor.shape[0] % 16 == 0
        and tensor.shape[1] % ROWS == 0
        and torch.cpu._is_avx512_bf16_supported()
    )


@functools.cache
def in_slabs() -> bool:
    """Whether the order is the one that mixed steps know: `MixedMatrix.segment`'s slabs."""
    rows, columns = ROWS + 16, 2 * ROWS
    found = torch.arange(rows * columns, dtype=torch.int16).view(rows, columns)
    wanted = [
        slab.view(len(slab), columns // 2, 2).transpose(0, 1).reshape(-1)
        for slab in (found[:ROWS], found[ROWS:])
    ]
    return torch.equal(_convert(found).view(-1), torch.cat(wanted))


def _plain_digest(order: KernelOrder, live: Live) -> tuple[str, str]:
    (found,) = live_digests([order.plain(live)], 1).items()
    return found


def _convert(slab_RK: Tensor) -> Tensor:
    """Reorder a slab, int16 to int16."""
    moved: Tensor = torch.ops._C.convert_weight_packed(slab_RK.view(torch.bfloat16))
    return moved.view(torch.int16)


@functools.lru_cache(2)
def _order(rows: int, columns: int) -> Tensor:
    """The place that each weight of a reordered slab comes from."""
    places_RK = torch.arange(rows * columns, dtype=torch.int32).view(rows, columns)
    low, high = (_convert(half.to(torch.int16)) for half in (places_RK & 0x7FFF, places_RK >> 15))
    return (high.long() << 15 | low.long()).view(-1)


def _slabs(memory: Tensor, shape: Shape) -> Iterator[Tensor]:
    """int16 views of rows."""
    matrix = memory.view(-1).view(torch.int16)[: prod(shape)].view(shape)
    return (matrix[begin:end] for begin, end in _rows(shape))


def _rows(shape: Shape) -> Iterator[tuple[int, int]]:
    rows, columns = shape
    step = max(ROWS, SIZE // columns // ROWS * ROWS)
    return ((begin, min(rows, begin + step)) for begin in range(0, rows, step))
