"""Match masks that were made elsewhere: which bits of a file are which weights of a family.

A mask is one vector over the base's tensors, names sorted (mask_files/npy.py says whose files these
are). Its length tells which tensors are in it: every one, or every float one, tied copies once or
each time. The store keeps m and (W0 != W1): where the multi-task model is the base, a bit means
nothing and is cleared.

A mask of these very models has no bit where tau_t = 0, since 0 > lambda |tau_MTL - tau_t| is never
true. Bits there say that the file belongs to other weights, or to another order of tensors.

Legend: N = elements of a block, P = ceil(N / 8) packed bytes (LSB first, as in stores).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskstore.errors import InputError
from taskstore.format.dtypes import MASKED
from taskstore.kernels import bits
from taskstore.merging.task_vectors import Block
from taskstore.models.compare import Plan
from taskstore.models.family import Family
from taskstore.packing.mask_files import npy
from taskstore.packing.options import PackOptions

U = NDArray[Any]
BitSpans = dict[str, tuple[int, int]]  # tensor -> first and last bit


@dataclass
class Counts:
    """Bits of one task's mask: set, set where W0 = W1, set where tau = 0; and weights, tau = 0."""

    ones: int = 0
    idle: int = 0
    unmoved: int = 0
    still: int = 0


@dataclass(frozen=True)
class _Mask:
    packed_P: NDArray[np.uint8]  # most significant bit first, mapped
    starts: Mapping[str, int]  # tensor -> its first bit


class Imported:
    """The masks of a family's tasks, out of files."""

    def __init__(self, family: Family, plan: Plan, files: Mapping[str, Path]) -> None:
        """Raises InputError for a file that does not hold just these tasks' masks."""
        self._lock = threading.Lock()
        self.counts = {task.name: Counts() for task in family.tasks}
        _check_shapes(family, plan)
        found = _find(list(self.counts), files)
        layouts = list(_layouts(family, plan))
        self._masks = {name: _fit(name, found[name], layouts) for name in found}

    def select(self, block: Block, task: str, tau_N: U, w0_N: U, w1_N: U) -> tuple[U, U]:
        """Mask (P,), and the weights it selects (N,); float32 (N,), bits (N,) twice."""
        mask = self._masks[task]
        first = mask.starts[block.name]
        wanted_N = npy.bits(mask.packed_P, first + block.start, first + block.stop)
        live_N, still_N = w0_N != w1_N, tau_N == 0
        mask_N = wanted_N & live_N
        with self._lock:
            counts = self.counts[task]
            counts.ones += int(wanted_N.sum())
            counts.idle += int((wanted_N & ~live_N).sum())
            counts.unmoved += int((wanted_N & still_N).sum())
            counts.still += int(still_N.sum())
        return bits.pack(mask_N), np.where(mask_N, w1_N, w0_N)

    def warnings(self) -> list[str]:
        """What an owner of the masks should know, once all is selected."""
        found = []
        idle = {task: counts.idle for task, counts in self.counts.items() if counts.idle}
        if idle:
            ones = sum(counts.ones for counts in self.counts.values())
            found.append(
                f"{sum(idle.values()):,} of {ones:,} bits of the masks are set where the multi-"
                "task model has the base's weight; cleared, they change nothing: "
                + ", ".join(f"{task} {count:,}" for task, count in idle.items())
            )
        for task, counts in self.counts.items():
            if counts.unmoved:
                found.append(
                    f"{task}: its mask takes {counts.unmoved:,} of {counts.still:,} weights that "
                    "this fine-tune has not moved, and a TALL-mask takes none: are these the very "
                    "models, in their dtype, that the mask was made from?"
                )
        return found


def of(family: Family, plan: Plan, options: PackOptions) -> Imported | None:
    """The masks that the options name, None where masks are to be made."""
    return Imported(family, plan, options.masks) if options.masks else None


def _check_shapes(family: Family, plan: Plan) -> None:
    """One vector over the base's tensors has bits for no other ones."""
    for task, planned in zip(family.tasks, plan.tasks, strict=True):
        for name, info in family.base.tensors.items():
            if info.dtype not in MASKED:
                continue
            entry = planned.get(name)
            if entry is None:
                problem = f"has no {name!r}"
            elif entry.kind not in ("mask", "alias") or entry.info.shape != info.shape:
                problem = f"has {name!r} as {entry.info.dtype} {list(entry.info.shape)}"
            else:
                continue
            raise InputError(
                f"task {task.name!r} {problem}, {info.dtype} {list(info.shape)} in the base; masks "
                "of a file are over the base's tensors: pack without `masks`"
            )


def _find(tasks: list[str], files: Mapping[str, Path]) -> dict[str, npy.PackedMask]:
    """Task -> its mask."""
    read = {path: npy.read(path) for path in sorted(set(files.values()))}
    found: dict[str, npy.PackedMask] = {}
    for task in tasks:
        if task not in files:
            raise InputError(f"no mask is given for task {task!r}; add masks={{{task!r}: FILE}}")
        path = files[task]
        masks = read[path]
        mask = masks.get(task, masks.get(""))
        if mask is None:
            raise InputError(
                f"{path} has no mask of {task!r}, only of {', '.join(map(repr, masks)) or 'none'}; "
                "call the fine-tune as the file does: NAME=FINETUNE"
            )
        if mask in found.values():
            raise InputError(f"{path} is one mask, for more than one task; give NAME=FILE for each")
        found[task] = mask
    for path, masks in read.items():
        if unknown := sorted(set(masks) - {"", *tasks}):
            raise InputError(
                f"{path} has a mask of {unknown[0]!r}, which is no task of this family; the "
                "multi-task vector is of all of them: give that fine-tune, too"
            )
    return found


def _layouts(family: Family, plan: Plan) -> Iterator[BitSpans]:
    """What may be in a mask: first as the published code has it."""
    tensors = sorted(family.base.tensors.items())
    for skipped in (set(), set(plan.aliases)):
        for dtypes in (None, MASKED):
            layout, at = {}, 0
            for name, info in tensors:
                if name not in skipped and (dtypes is None or info.dtype in dtypes):
                    layout[name] = at, at + info.numel
                    at += info.numel
            yield layout


def _fit(task: str, mask: npy.PackedMask, layouts: list[BitSpans]) -> _Mask:
    """The mask with the first layout that fits; raises InputError."""
    packed_P = mask.map() if mask.size else np.empty(0, np.uint8)
    long_enough = [layout for layout in layouts if mask.size == bits.packed_size(_size(layout))]
    for layout in long_enough:
        if not npy.bits(packed_P, _size(layout), 8 * mask.size).any():
            return _Mask(packed_P, {name: start for name, (start, _) in layout.items()})
    if long_enough:
        problem = "has bits set past its last weight: it is another model's, or damaged"
    else:
        sizes = sorted({_size(layout) for layout in layouts}, reverse=True)
        problem = (
            f"has {max(0, 8 * mask.size - 7):,} to {8 * mask.size:,} bits, and the base "
            f"{' or '.join(f'{size:,}' for size in sizes)} weights; {_cause(mask, layouts)}"
        )
    raise InputError(f"{mask.path}: the mask of {task!r} {problem}")


def _cause(mask: npy.PackedMask, layouts: list[BitSpans]) -> str:
    """A tensor that makes up the difference, or the usual reasons."""
    for layout in layouts:
        for name, (start, stop) in layout.items():
            if mask.size == bits.packed_size(_size(layout) + stop - start):
                return f"as if {name!r} were in it twice: a tied copy that this base lacks?"
            if mask.size == bits.packed_size(_size(layout) - stop + start):
                return f"as if {name!r} were not in it: was that left out when it was made?"
    return "a head or buffers that only one of them has, or another model"


def _size(layout: BitSpans) -> int:
    return max(stop for _, stop in layout.values())
