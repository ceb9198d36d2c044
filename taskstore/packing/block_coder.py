"""Code one block of the family: what one worker does.

Legend: N = elements of a block, S = tasks that share it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from taskstore.format import names
from taskstore.format.dtypes import MASKED, plain_codec
from taskstore.format.manifest import TIERS
from taskstore.format.section import encode
from taskstore.format.tiers import ABOVE, Bits, BlockSpec
from taskstore.kernels import cpu, floats
from taskstore.kernels.products import F32, four_sums, four_sums_of_bf16
from taskstore.merging import similarity
from taskstore.merging.similarity import Weights
from taskstore.merging.task_vectors import Block, Source, blocks, bytes_of, read_base
from taskstore.models import TensorInfo
from taskstore.packing import multitask
from taskstore.packing import plan as planning
from taskstore.packing.job import PackJob
from taskstore.packing.low_rank.driver import LowRanks, low_ranks
from taskstore.packing.manifest_draft import OF_ADAPTER
from taskstore.packing.mask_coder import MaskCoder
from taskstore.packing.writer import CodedBlock, CodedPart

ONE_IN = 8  # strips of weights of a large family: its four sums are estimated, to about 1 %
Lineage = tuple[Bits, Bits]  # a parent's weights and the base's


@dataclass(frozen=True)
class BlockUnit:
    """One block to code. `private`: where what only one task has begins; None: shared."""

    block: Block
    private: int | None = None
    adapter: bool = False  # of an adapter's own tensor


@dataclass(frozen=True)
class Coder:
    """What all units share.

    codings   codec of the multi-task weights, by tensor
    share     of the weights that are looked at for the angles of the task vectors
    one_in    strips of weights, of which one is looked at for the four sums
    low_ranks parts of rests, and of exact tensors
    wanted    the tasks to code, without the base; None: the whole family
    """

    job: PackJob
    source: Source
    masks: MaskCoder
    codings: Mapping[str, str]
    share: float
    one_in: int
    low_ranks: LowRanks
    wanted: frozenset[int] | None = None

    def above(self, task: str) -> list[str]:
        """Return the tiers of a task that are coded over the base's weights, or over a mask."""
        return [tier for tier in self.job.options.tiers_of(task) if tier in ABOVE]

    @property
    def masked(self) -> bool:
        return "mask" in self.job.options.tier_names

    @cached_property
    def number(self) -> Mapping[str, int]:
        """Return the number of each task."""
        return {task.name: t for t, task in enumerate(self.job.family.tasks)}

    @classmethod
    def of(cls, job: PackJob, source: Source, known: Mapping[str, str] | None = None) -> Coder:
        share = similarity.share_of(planning.shared_tensors(job.family, job.plan))
        one_in = 1 if share == 1 else ONE_IN
        codings = multitask.choose(job, source) if known is None else known
        masks = MaskCoder(job, source.method, one_in)
        return cls(job, source, masks, codings, share, one_in, parts_of(job))

    def units(self) -> Iterator[BlockUnit]:
        """Yield one unit per block: the base's tensors by name, then each task's private ones."""
        job, wanted, read = self.job, self.wanted, self._read
        for name, info in sorted(job.family.base.tensors.items()):
            adapted = planning.like_base(job.family, job.plan, name)
            tasks = tuple(sorted((*job.plan.tasks_of(name, *TIERS), *adapted)))
            if wanted is not None:
                tasks = tuple(t for t in tasks if t in read) if wanted & set(tasks) else ()
            if name not in job.plan.aliases and (tasks or wanted is None):
                for block in self._blocks(name, info, tasks):
                    yield BlockUnit(block)
        for t, planned in enumerate(job.plan.tasks):
            if wanted is not None and t not in wanted:
                continue
            for name, entry in planned.items():
                start = planning.private_start(job.family, job.plan, t, name)
                if start is not None:
                    left = TensorInfo(entry.info.dtype, (entry.info.numel - start,))
                    for block in self._blocks(name, left, (t,)):
                        yield BlockUnit(block, start)
        for task, reader in job.adapters.items():
            for name, info in sorted(reader.factors.tensors.items()):
                for block in self._blocks(name, info, (self.number[task],)):
                    yield BlockUnit(block, adapter=True)

    @property
    def _read(self) -> frozenset[int]:
        """Return the tasks that are coded, and those that they are coded against."""
        tasks, parents = self.job.family.tasks, self.job.parents
        known = [parents.get(tasks[t].name) for t in self.wanted or ()]
        return (self.wanted or frozenset()) | {self.number[name] for name in known if name}

    def _blocks(self, name: str, info: TensorInfo, tasks: tuple[int, ...]) -> Iterator[Block]:
        """Yield at least one block, so that a tensor without elements has its section too."""
        if not info.numel:
            yield Block(name, info, tasks, 0, 0, 0)
        yield from blocks(name, info, tasks, self.job.options.chunk)


def parts_of(job: PackJob) -> LowRanks:
    """Return what finds parts of low rank; raises NotFinite."""
    known = job.family, job.plan, job.options, job.parents
    return low_ranks(*known, job.executor, job.meter.stage)


def code(coder: Coder, unit: BlockUnit) -> CodedBlock:
    """Read and code one block; raises NotFinite."""
    if unit.adapter or unit.private is not None:
        coded = _private(coder, unit)
    elif unit.block.tasks and coder.masked:
        coded = _masked(coder, unit.block)
    else:
        coded = _coded(unit.block, bytes_of(coder.job.family, unit.block))
        w0_N, dtype = read_base(coder.job.family, unit.block), unit.block.info.dtype
        if coder.wanted is None:
            coded.parts.append(_base_part(coder, unit.block, w0_N))
        models = [_weights(coder, unit.block, t) for t in unit.block.tasks]
        for t, theta in zip(unit.block.tasks, models, strict=True):
            if coder.job.plan.tasks[t][unit.block.name].kind == "adapted":
                coded.parts.append(_adapted(coder, t, theta[0], w0_N))
            elif coder.wanted is None or t in coder.wanted:
                lineage = _lineage(coder, unit.block, t, (w0_N, dtype), models)
                coded.parts += _above(coder, unit.block, t, theta, (w0_N, dtype), lineage=lineage)
        if models and dtype in MASKED and coder.wanted is None:
            coded.products = similarity.of_weights(models, (w0_N, dtype), coder.share)
    if unit.block.info.numel == 0:
        coded.strip()
    return coded


def _masked(coder: Coder, block: Block) -> CodedBlock:
    """Code the base's part, the multi-task model's, and each task's mask with what is above it."""
    dtype, masks = block.info.dtype, coder.masks
    coded = _coded(block, bytes_of(coder.job.family, block))
    common = masks.all_at_once(block) if masks.is_common(block) else None
    if common:
        coded.products = similarity.of_bf16(common.theta_SN, common.w0_N, coder.share)
        coded.parts += [_base_part(coder, block, common.w0_N), *common.parts]
        coded.multitask = common.multitask
        return coded
    weights = coder.source.block(block)
    coded.products = similarity.of_vectors(weights.tau_SN, coder.share)
    given, coding = coder.job.family.multitask, coder.codings[block.name]
    if given:
        w1_N = given.chunk(block.name, block.k, weights.w0_N)
        merged_N = floats.to_float32(w1_N, dtype) - weights.theta0_N
    else:
        merged_N = coder.source.merge(weights)
        w1_N, coded.multitask = multitask.multitask(coding, weights, merged_N, dtype)
    coded.parts.append(_base_part(coder, block, weights.w0_N))
    for s, t in enumerate(block.tasks):
        part = masks.mask(block, t, weights.tau_SN[s], merged_N, weights, w1_N)
        own = coder.job.family.tasks[t].tensors[block.name].dtype
        coded.parts.append(part)
        if coder.above(coder.job.family.tasks[t].name):
            theta = _weights(coder, block, t)
            known = weights.theta0_N, weights.tau_SN[s]
            below = part.rebuilt_N, own
            lineage = _lineage(coder, block, t, (weights.w0_N, dtype))
            coded.parts += _above(coder, block, t, theta, below, known, lineage)
    return coded


def _weights(coder: Coder, block: Block, t: int) -> Weights:
    task = coder.job.family.tasks[t]
    return task.read(block.name, block.start, block.stop), task.tensors[block.name].dtype


def _above(
    coder: Coder,
    block: Block,
    t: int,
    theta: Weights,
    below: Weights,
    known: tuple[F32, F32] | None = None,
    lineage: Lineage | None = None,
) -> Iterator[CodedPart]:
    """Code the tiers above a mask, or above the base's weights, each over the one before.

    `known`: theta_0 and tau, float32 (N,), where `below` are not the base's weights.
    """
    job, task = coder.job, coder.job.family.tasks[t]
    info, entry, theta_N = task.tensors[block.name], job.plan.tasks[t][block.name], theta[0]
    rebuilt_N: Bits = cpu.cast(*below, info.dtype)
    moved = not np.array_equal(theta_N, rebuilt_N)
    spec = BlockSpec(
        dtype=info.dtype,
        shape=block.info.shape,
        start=block.start,
        step=coder.low_ranks.step_of(t, block.name, entry.codec),
        archive=job.options.level == "archive",
        label=(task.name, block.name),
        lineage=lineage,
        low_rank=coder.low_ranks.of(t, block) if entry.codec == "factored" else None,
        update=coder.low_ranks.update_of(t, block) if entry.codec == "low_rank" else None,
    )
    for tier in coder.above(task.name):
        own = replace(spec, codec=entry.codec if tier == entry.kind else None)
        streams, rebuilt_N = ABOVE[tier].encode(theta_N, rebuilt_N, own)
        sums = None
        if tier != "exact" and not known and below[1] == info.dtype == "BF16":
            sums = four_sums_of_bf16(below[0], theta_N, rebuilt_N, coder.one_in)
        elif tier != "exact":
            known = known or cpu.task_vector_of(*theta, *below)
            sums = four_sums(*known, rebuilt_N, info.dtype, coder.one_in)
        yield CodedPart(
            ABOVE[tier].stem(task.name),
            streams,
            task.name,
            rebuilt_N,
            (tier,),
            moved=moved,
            sums=sums,
            kept=max(0, info.numel - block.start),
            open_ended=info.numel > block.info.numel,
        )


def _lineage(
    coder: Coder, block: Block, t: int, base: Weights, models: Sequence[Weights] = ()
) -> Lineage | None:
    """Return the parent's weights of a block, and the base's, cast; None: it has no parent.

    `models`: of the block's tasks, where they are read.
    """
    family = coder.job.family
    parent = coder.number.get(coder.job.parents.get(family.tasks[t].name, ""))
    if parent is None or parent not in block.tasks:
        return None
    theirs = models[block.tasks.index(parent)] if models else _weights(coder, block, parent)
    dtype = family.tasks[t].tensors[block.name].dtype
    return cpu.cast(*theirs, dtype), cpu.cast(*base, dtype)


def _private(coder: Coder, unit: BlockUnit) -> CodedBlock:
    """Code what only one task has, or an adapter's own tensor."""
    block, job = unit.block, coder.job
    (t,) = block.tasks
    task, begin = job.family.tasks[t], unit.private or 0
    if unit.adapter:
        raw_N = job.adapters[task.name].factors.read(block.name, block.start, block.stop)
        stem, tiers = names.adapter_of(task.name), [OF_ADAPTER]
    else:
        raw_N = task.read(block.name, begin + block.start, begin + block.stop)
        stem = names.private_of(task.name)
        tiers = [*job.options.tiers_of(task.name)] if begin else [""]
    coded = _coded(block, raw_N.nbytes)
    if not unit.adapter and job.plan.tasks[t][block.name].kind == "adapted":
        coded.parts.append(_adapted(coder, t, raw_N, None))
        return coded
    streams = encode(plain_codec(block.info.dtype), raw_N)
    coded.parts.append(CodedPart(stem, streams, task.name, raw_N, tuple(tiers)))
    return coded


def _adapted(coder: Coder, t: int, theta_N: Bits, w0_N: Bits | None) -> CodedPart:
    """Note what an adapter makes; it is stored nowhere, only its checksum."""
    moved = w0_N is None or not np.array_equal(theta_N, w0_N)
    return CodedPart(None, [], coder.job.family.tasks[t].name, theta_N, moved=moved)


def _coded(block: Block, read_bytes: int) -> CodedBlock:
    last = block.stop == block.info.numel or block.info.numel == 0
    return CodedBlock(block.name, block.start == 0, last, read_bytes, tasks=block.tasks)


def _base_part(coder: Coder, block: Block, w0_N: Bits) -> CodedPart:
    carried = coder.job.options.base == "embed"
    streams = encode(plain_codec(block.info.dtype), w0_N) if carried and w0_N.size else []
    return CodedPart(names.BASE if carried else None, streams, None, w0_N)
