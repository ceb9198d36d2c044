"""From a block of the family to coded streams: what one worker thread does.

Legend: N = elements of a block, S = tasks that mask it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskstore import rungs
from taskstore.errors import NotFinite
from taskstore.format import names
from taskstore.format.dtypes import exact_codec, plain_codec
from taskstore.format.manifest import TIERS
from taskstore.format.section import encode
from taskstore.format.validate import CODECS_OF_TIERS
from taskstore.kernels import cpu, floats
from taskstore.merging.task_vectors import Block, Source, blocks, read_base
from taskstore.models import Checkpoint, TensorInfo
from taskstore.models.compare import Plan
from taskstore.packing import multitask
from taskstore.packing.mask_coder import Masking
from taskstore.packing.mask_files.matching import Imported
from taskstore.packing.options import PackOptions
from taskstore.packing.writer import CodedBlock, CodedPart

F32 = NDArray[np.float32]


class Coder:
    """Knows the family, the plan and the merge; makes the work items of a pack, in order."""

    def __init__(
        self,
        source: Source,
        plan: Plan,
        options: PackOptions,
        in_flight: int,
        imported: Imported | None = None,
    ) -> None:
        self._family, self._source, self._plan = source.family, source, plan
        self._options = options
        self._carried = options.base == "embed"
        self._masking = Masking(source.family, source.method, options, imported)
        self.codings = multitask.choose(source, plan, options, in_flight)

    def work(self) -> Iterator[Callable[[], CodedBlock]]:
        """One item per block: the base's tensors by name, then each task's private ones."""
        first = self._options.rungs[0]
        code = self._exact if first == "exact" else self._shared
        for name, info in sorted(self._family.base.tensors.items()):
            if name in self._plan.aliases:
                continue
            for block in self._blocks(name, info, self._plan.tasks_of(name, first)):
                yield lambda block=block: code(block)  # type: ignore[misc]
        for t, planned in enumerate(self._plan.tasks):
            for name, entry in planned.entries.items():
                start = self._private_start(name, entry.info, entry.kind)
                if start is None:
                    continue
                rest = TensorInfo(entry.info.dtype, (entry.info.numel - start,))
                for block in self._blocks(name, rest, (t,)):
                    yield lambda block=block, start=start: self._private(  # type: ignore[misc]
                        block, start
                    )

    def _blocks(self, name: str, info: TensorInfo, tasks: tuple[int, ...]) -> Iterator[Block]:
        """At least one block, so that a tensor without elements has its section too."""
        if not info.numel:
            yield Block(name, info, tasks, 0, 0, 0)
        yield from blocks(name, info, tasks, self._options.chunk)

    def _private_start(self, name: str, info: TensorInfo, kind: str) -> int | None:
        """First element of a task's tensor that is kept privately; None where all is shared."""
        if kind == "private":
            return 0
        if kind in TIERS and info.shape != self._family.base.tensors[name].shape:
            return self._family.base.tensors[name].numel
        return None

    def _coded(self, block: Block, read_bytes: int) -> CodedBlock:
        empty = block.info.numel == 0
        return CodedBlock(
            block.name, block.start == 0, block.stop == block.info.numel or empty, read_bytes
        )

    def _shared(self, block: Block) -> CodedBlock:
        dtype = block.info.dtype
        coded = self._coded(block, self._bytes(block))
        if not block.tasks:
            coded.parts.append(self._base_part(read_base(self._family, block), dtype))
            return coded
        if self._masking.is_common(block):
            w0_N, w1_N, masks = self._masking.all_at_once(block)
            coded.parts += [self._base_part(w0_N, dtype), *masks]
            coded.multitask = encode("ulp", w1_N, w0_N)
            return coded
        weights = self._source.block(block)
        coded.parts.append(self._base_part(weights.w0_N, dtype))
        if "mask" in self._options.rungs:
            merged_N = self._source.merge(weights)
            w1_N, coded.multitask = multitask.multitask(
                self.codings[block.name], weights, merged_N, dtype
            )
        for s, t in enumerate(block.tasks):
            task, tau_N = self._family.tasks[t], weights.tau_SN[s]
            below_N = cpu.cast(weights.w0_N, dtype, task.tensors[block.name].dtype)
            if "mask" in self._options.rungs:
                part = self._masking.mask(block, task, tau_N, merged_N, weights, w1_N)
                coded.parts.append(part)
                below_N = part.rebuilt_N
            coded.parts += self._above(block, task, below_N, moved=bool(tau_N.any()))
        if block.info.numel == 0:
            coded.strip()
        return coded

    def _above(
        self, block: Block, task: Checkpoint, below_N: NDArray[Any], *, moved: bool
    ) -> Iterator[CodedPart]:
        """The tiers above a mask, or above the base's weights, each over the one before."""
        info = task.tensors[block.name]
        above = [tier for tier in self._options.rungs if tier != "mask"]
        theta_N = task.read(block.name, block.start, block.stop) if above else below_N
        for tier in above:
            if tier == "rest":
                codec = rungs.levels_for(
                    block.info.shape, block.start, self._options.bits_of(task.name)
                )
                label = (task.name, block.name)
                streams, below_N = rungs.rest(codec, theta_N, below_N, info.dtype, label)
                stem = names.rest_of(task.name)
            else:
                streams, below_N = encode(self._exact_codec(info.dtype), theta_N, below_N), theta_N
                stem = names.exact_of(task.name)
            grown = info.shape != block.info.shape
            yield CodedPart(
                stem, streams, task.name, below_N, (tier,), moved=moved, open_ended=grown
            )

    def _exact(self, block: Block) -> CodedBlock:
        """The base's part, and each fine-tune's bits coded against it."""
        dtype = block.info.dtype
        coded = self._coded(block, self._bytes(block))
        w0_N = read_base(self._family, block)
        coded.parts.append(self._base_part(w0_N, dtype))
        for t in block.tasks:
            task = self._family.tasks[t]
            theta_N = task.read(block.name, block.start, block.stop)
            coded.parts.append(
                CodedPart(
                    names.exact_of(task.name),
                    encode(self._exact_codec(dtype), theta_N, w0_N),
                    task.name,
                    theta_N,
                    ("exact",),
                    moved=not np.array_equal(theta_N, w0_N),
                    open_ended=task.tensors[block.name].shape != block.info.shape,
                )
            )
        if block.info.numel == 0:
            coded.strip()
        return coded

    def _exact_codec(self, dtype: str) -> str:
        archive = self._options.level == "archive"
        return CODECS_OF_TIERS["exact"] if archive else exact_codec(dtype)

    def _bytes(self, block: Block) -> int:
        n = block.stop - block.start
        models = [self._family.base, *(self._family.tasks[t] for t in block.tasks)]
        return sum(
            n * model.tensors[block.name].nbytes // max(1, model.tensors[block.name].numel)
            for model in models
        )

    def _base_part(self, w0_N: NDArray[Any], dtype: str) -> CodedPart:
        streams = encode(plain_codec(dtype), w0_N) if self._carried and w0_N.size else []
        return CodedPart(names.BASE if self._carried else None, streams, None, w0_N)

    def _private(self, block: Block, start: int) -> CodedBlock:
        (t,) = block.tasks
        task, dtype = self._family.tasks[t], block.info.dtype
        raw_N = task.read(block.name, start + block.start, start + block.stop)
        if not floats.all_finite(raw_N, dtype):
            raise NotFinite(task.name, block.name)
        coded = self._coded(block, raw_N.nbytes)
        tiers = self._options.rungs if start else ("",)
        stem, streams = names.private_of(task.name), encode(plain_codec(dtype), raw_N)
        coded.parts.append(CodedPart(stem, streams, task.name, raw_N, tiers))
        if block.info.numel == 0:
            coded.strip()
        return coded
