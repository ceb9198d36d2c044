"""Cut a pack into units: whole tensors, large ones on the borders of blocks, small ones together.

The cut hangs on the family and the options alone, never on the number of workers. A unit is a few
runs of blocks, numbered as `Coder.units` yields them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from taskstore.format.dtypes import nbytes
from taskstore.merging.task_vectors import bytes_of
from taskstore.packing.block_coder import BlockUnit, Coder
from taskstore.packing.low_rank.driver import FACTORED
from taskstore.packing.parts.subtrees import CHUNK

MOST = 256  # units that the largest tensors are cut for: none is much more than that share
LEAST = 64 << 20  # bytes of models of a unit, where there are as many


@dataclass(frozen=True)
class Unit:
    """Blocks [start, stop) of each run, and about the bytes of models that they read.

    `cut`: it holds a piece of a tensor, whose checksum is joined from its blocks' values.
    """

    number: int
    runs: tuple[tuple[int, int], ...]
    nbytes: int
    cut: bool = False

    @property
    def blocks(self) -> list[int]:
        return [n for start, stop in self.runs for n in range(start, stop)]


@dataclass
class _Run:
    """Blocks of one tensor, or a piece of it; or of several small ones."""

    start: int
    stop: int
    nbytes: int
    cut: bool = False
    grown: list[tuple[int, int, int]] = field(default_factory=list)

    def takes(self, start: int, size: int, most: int) -> bool:
        """Tell whether the next tensor is small enough to join this one."""
        return not self.cut and self.stop == start and self.nbytes + size <= most

    def unit(self, number: int) -> Unit:
        runs = ((self.start, self.stop), *((start, stop) for start, stop, _ in self.grown))
        nbytes = self.nbytes + sum(size for *_, size in self.grown)
        return Unit(number, runs, nbytes, self.cut)


def cut(coder: Coder, blocks: Sequence[BlockUnit]) -> list[Unit]:
    """Return the units of all `blocks`, in their order."""
    sizes = [_read_bytes(coder, unit) for unit in blocks]
    most = max(LEAST, sum(sizes) // MOST)
    runs: list[_Run] = []
    base: dict[str, _Run] = {}  # the one that holds a tensor
    for start, stop in _tensors(blocks):
        first, size = blocks[start], sum(sizes[start:stop])
        if first.private:  # more rows of a tensor: one checksum is over all of it
            base[first.block.name].grown.append((start, stop, size))
            continue
        if size > most and stop - start > 1 and _may_be_cut(coder, first):
            runs += _pieces(sizes, start, stop, most)
        elif runs and runs[-1].takes(start, size, most):
            runs[-1].stop, runs[-1].nbytes = stop, runs[-1].nbytes + size
        else:
            runs.append(_Run(start, stop, size))
        if first.private is None and not first.adapter:
            base[first.block.name] = runs[-1]
    return [run.unit(number) for number, run in enumerate(runs)]


def largest_first(units: Sequence[Unit]) -> list[Unit]:
    return sorted(units, key=lambda unit: (-unit.nbytes, unit.number))


def of_part(units: Sequence[Unit], part: int, parts: int) -> list[Unit]:
    """Return what part `part` of `parts`, from 1, does: the largest goes where there is least."""
    loads, mine = [0] * parts, []
    for unit in largest_first(units):
        least = loads.index(min(loads))
        loads[least] += unit.nbytes + 1
        if least == part - 1:
            mine.append(unit)
    return mine


def _read_bytes(coder: Coder, unit: BlockUnit) -> int:
    block = unit.block
    if unit.adapter or unit.private is not None:
        return nbytes(block.info.dtype, (block.stop - block.start,))
    return bytes_of(coder.job.family, block)


def _tensors(blocks: Sequence[BlockUnit]) -> list[tuple[int, int]]:
    """Return first and last block, exclusive, of each run of blocks of one tensor."""
    starts = [n for n, unit in enumerate(blocks) if unit.block.start == 0]
    return list(zip(starts, [*starts[1:], len(blocks)], strict=True))


def _may_be_cut(coder: Coder, unit: BlockUnit) -> bool:
    """Tell whether blocks are whole subtrees of each model's tensor; see subtrees.py.

    All blocks of a tensor have the same factors, which machines may round differently: one codes
    all.
    """
    job, block, chunk = coder.job, unit.block, coder.job.options.chunk
    tasks = [] if unit.adapter or unit.private is not None else block.tasks
    if job.family.again is not None:
        return False  # a store proves tensors that are read whole
    same = all(job.family.tasks[t].tensors[block.name].shape == block.info.shape for t in tasks)
    factored = any(job.plan.tasks[t][block.name].codec in FACTORED for t in tasks)
    return same and not factored and chunk % CHUNK == 0 and chunk & (chunk - 1) == 0


def _pieces(sizes: Sequence[int], start: int, stop: int, most: int) -> list[_Run]:
    pieces: list[_Run] = []
    for n in range(start, stop):
        if not pieces or pieces[-1].nbytes + sizes[n] > most:
            pieces.append(_Run(n, n, 0, cut=True))
        pieces[-1].stop, pieces[-1].nbytes = n + 1, pieces[-1].nbytes + sizes[n]
    return pieces
