"""A sample of the weights that tasks share with the base: whole rows, spread over every tensor.

Rows, because a rest has a step for each. Every tensor is looked at, a large one in proportion to
its size, and a family of few weights whole. Legend: N = elements of a piece.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskstore.errors import NotFinite
from taskstore.format.codecs import stream
from taskstore.format.manifest import TIERS
from taskstore.format.tiers.rest import levels_for, row_length
from taskstore.kernels import cpu, floats
from taskstore.kernels.products import four_sums
from taskstore.merging.task_vectors import Block, blocks
from taskstore.models import Checkpoint, TensorInfo
from taskstore.models.compare import Plan
from taskstore.models.family import Family

F32 = NDArray[np.float32]
Bits = NDArray[Any]
SIZE = 1 << 20  # about so many weights of a task are looked at
RUN = 1 << 12  # about so many stand side by side
PIECE = 1 << 17  # no more are held as one


@dataclass(frozen=True)
class Piece:
    """Some of a tensor's weights: runs of whole rows, or one chunk of a tensor that is taken whole.

    weight   how many of the tensor's weights each one stands for
    """

    runs: tuple[Block, ...]
    weight: float

    @property
    def name(self) -> str:
        return self.runs[0].name

    @property
    def tasks(self) -> tuple[int, ...]:
        return self.runs[0].tasks


@dataclass(frozen=True)
class Taken:
    """A piece of a task, read: bits of the base's dtype made the task's, and float32, all (N,).

    theta0_N, tau_N   the base, and the task vector over it
    missing_N         what a rest has to add to `below_N`, the base in the task's dtype
    """

    piece: Piece
    dtype: str
    below_N: Bits
    theta0_N: F32
    tau_N: F32
    missing_N: F32


def pieces(family: Family, plan: Plan, chunk: int) -> list[Piece]:
    """Choose what to look at, about SIZE weights per task."""
    shared = [
        (name, info, tasks)
        for name, info in sorted(family.base.tensors.items())
        if name not in plan.aliases and info.numel and (tasks := plan.tasks_of(name, *TIERS))
    ]
    share = SIZE / max(1, sum(info.numel for _, info, _ in shared))
    return [piece for tensor in shared for piece in _pieces_of(*tensor, share, chunk)]


def _pieces_of(
    name: str, info: TensorInfo, tasks: tuple[int, ...], share: float, chunk: int
) -> Iterator[Piece]:
    columns = row_length(info.shape) or 1
    rows, side = info.numel // columns, max(1, RUN // columns)
    count = max(1, round(share * rows / side))
    if share >= 1 or count * side >= rows:
        yield from (Piece((block,), 1.0) for block in blocks(name, info, tasks, chunk))
        return
    middles = (np.arange(count) + 0.5) * (rows / count)
    starts = (middles - side / 2).astype(int) * columns
    length, weight = side * columns, rows / (count * side)
    runs = [Block(name, info, tasks, 0, start, start + length) for start in starts.tolist()]
    together = max(1, PIECE // length)
    for first in range(0, count, together):
        yield Piece(tuple(runs[first : first + together]), weight)


def rest_sums(bits: float, taken: Taken) -> NDArray[np.float64]:
    """Return the four sums (format/fidelity.py) of a piece with a rest of so many bits."""
    shape, first = taken.piece.runs[0].info.shape, taken.piece.runs[0].start
    vector_N = levels_for(shape, first, bits).near(taken.missing_N)
    below_F = floats.to_float32(taken.below_N, taken.dtype)
    rebuilt_N = cpu.add(below_F, vector_N, taken.below_N, taken.dtype)
    sums = four_sums(taken.theta0_N, taken.tau_N, rebuilt_N, taken.dtype)
    return sums * taken.piece.weight


def rest_bytes(bits: float, taken: Taken) -> float:
    """Return about how many bytes the rest of a piece's tensor takes, with so many bits."""
    shape, first = taken.piece.runs[0].info.shape, taken.piece.runs[0].start
    streams = levels_for(shape, first, bits).encode(taken.missing_N.view(np.uint32), None)
    return sum(len(stream.store(one)) for one in streams) * taken.piece.weight


def take(shared: tuple[Family, int], piece: Piece) -> Taken:
    """Read a piece of the base and of a task; raises NotFinite."""
    family, t = shared
    task, base_dtype = family.tasks[t], piece.runs[0].info.dtype
    dtype = task.tensors[piece.name].dtype
    w0_N, theta_N = _read(family.base, piece), _read(task, piece)
    theta0_N, tau_N = cpu.task_vector_of(theta_N, dtype, w0_N, base_dtype)
    below_N, missing_N = cpu.cast(w0_N, base_dtype, dtype), np.empty_like(tau_N)
    below_F = floats.to_float32(below_N, dtype)
    if not cpu.task_vector(theta_N, dtype, below_F, missing_N):
        raise NotFinite(task.name, piece.name)
    return Taken(piece, dtype, below_N, theta0_N, tau_N, missing_N)


def _read(model: Checkpoint, piece: Piece) -> Bits:
    found = [model.read(piece.name, run.start, run.stop) for run in piece.runs]
    return found[0] if len(found) == 1 else np.concatenate(found)
