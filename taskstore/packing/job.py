"""One pack, once its input is known to be good: what travels through all of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from taskstore.executors import Executor, threads
from taskstore.format.dtypes import ITEMSIZE
from taskstore.format.manifest import TIERS
from taskstore.format.weight_files import SHARD_BYTES, usual_head, usual_order
from taskstore.merging.methods import make
from taskstore.models import Checkpoint, Originals
from taskstore.models.checkpoint import TensorInfo
from taskstore.models.compare import Plan
from taskstore.models.family import Family
from taskstore.models.readers.lora import LoraReader
from taskstore.models.tied import twins
from taskstore.packing import plan as planning
from taskstore.packing.low_rank import driver as low_rank
from taskstore.packing.low_rank import importance
from taskstore.packing.mask_files import matching
from taskstore.packing.mask_files.matching import Imported
from taskstore.packing.options import PackOptions
from taskstore.packing.parents import tensor_codecs
from taskstore.packing.parents.choice import choose
from taskstore.progress import Callback, Meter, silent


@dataclass(frozen=True)
class Found:
    """What samples of a family said, where it is known: parents of tasks, and codecs of tensors."""

    parents: Mapping[str, str]
    codecs: Mapping[str, Mapping[str, str]]  # of exact tensors that have one of their own, by task

    @classmethod
    def of(cls, job: PackJob) -> Found:
        plans = zip(job.family.tasks, job.plan.tasks, strict=True)
        codecs = {task.name: {n: e.codec for n, e in p.items() if e.codec} for task, p in plans}
        return cls(job.parents, codecs)


@dataclass(frozen=True)
class PackJob:
    """masks     out of files, where masks are not to be made
    kept      models (None: the base) whose weight files are to come back as they were
    parents   task -> the task that it is coded against, where that is not the base
    adapters  tasks that keep their adapter
    twins     pairs of tasks that are one model
    executor  runs blocks; as many are in flight as the options' memory allows
    """

    family: Family
    plan: Plan
    options: PackOptions
    masks: Imported | None
    kept: Mapping[str | None, Originals]
    parents: Mapping[str, str]
    adapters: planning.Adapters
    twins: list[tuple[str, str]]
    meter: Meter
    executor: Executor

    def __reduce__(self) -> Any:
        """Another process codes blocks by it, and neither reports nor finishes a store."""
        assert self.masks is None, "masks of files are of one process"
        return _to_code, (self.family, self.plan, self.options, self.parents, [*self.adapters])


def _to_code(
    family: Family, plan: Plan, options: PackOptions, parents: Mapping[str, str], kept: list[str]
) -> PackJob:
    readers = {task.name: task.reader for task in family.tasks if task.name in kept}
    adapters = {name: r for name, r in readers.items() if isinstance(r, LoraReader)}
    meter, executor = Meter(silent, 0), threads(1)
    return PackJob(family, plan, options, None, {}, parents, adapters, [], meter, executor)


def make_job(
    family: Family, options: PackOptions, progress: Callback, found: Found | None = None
) -> PackJob:
    """Decide what a pack does; raises NotOneFamily or InputError for what cannot be packed."""
    plan, executor = planning.make(family, options), threads(options.jobs)
    if found is None:
        importance.check(family, options, executor)
    meter, same = Meter(progress, 0), twins(family)
    job = PackJob(family, plan, options, None, {}, {}, {}, same, meter, executor)
    return with_options(job, options, found)


def with_options(job: PackJob, options: PackOptions, found: Found | None = None) -> PackJob:
    """Return the same pack with other tiers; raises InputError for what cannot be packed."""
    family = job.family
    plan = planning.with_tiers(job.plan, family, options)
    plan, adapters = planning.keep_adapters(family, plan, options)
    kept = _originals(family, plan, options)
    itemsize = max(ITEMSIZE[i.dtype] for i in family.base.tensors.values())
    executor = options.executor(len(family.tasks), itemsize)
    if found is None:
        parents = choose(*planning.without(family, plan, adapters), options, executor)
        plan = tensor_codecs.choose(family, plan, options, parents, executor)
    else:
        parents, plan = dict(found.parents), planning.with_codecs(family, plan, found.codecs)
    plan = low_rank.planned(family, plan, options)
    return replace(
        job,
        plan=plan,
        options=options,
        masks=matching.of(family, plan, options),
        kept=kept,
        parents=parents,
        adapters=adapters,
        meter=Meter(job.meter.callback, _total_bytes(family, options, kept)),
        executor=executor,
    )


def _total_bytes(family: Family, options: PackOptions, kept: Mapping[str | None, Originals]) -> int:
    """Count the bytes of weights that will be read, over all passes."""
    masked = "mask" in options.tier_names
    passes = 1 + (make(options.method, options.merge_options).passes if masked else 0)
    models = (family.base, *family.tasks)
    weights = sum(info.nbytes for model in models for info in model.tensors.values())
    return passes * weights + sum(file.size for model in kept.values() for file in model.files)


def expected_bytes(job: PackJob) -> int:
    """About how many bytes the store will have, by what such weights usually take."""
    family = job.family
    parts = 0.0
    if job.options.base == "embed":
        parts += sum(info.nbytes * _coded(info) for info in family.base.tensors.values())
    for name, info in family.base.tensors.items():
        parts += info.numel * 10 / 8 if job.plan.tasks_of(name, "mask") else 0
    for task, planned in zip(family.tasks, job.plan.tasks, strict=True):
        tiers = job.options.tiers_of(task.name)
        bits = (1 if "mask" in tiers else 0) + (
            job.options.bits_of(task.name) if "rest" in tiers else 0
        )
        for entry in planned.values():
            info = entry.info
            if entry.kind in TIERS:
                exact = info.nbytes * (_coded(info) - 0.17) if "exact" in tiers else 0
                parts += info.numel * bits / 8 + exact
            elif entry.kind == "private":
                parts += info.nbytes * _coded(info)
        if task.name in job.adapters:
            own = job.adapters[task.name].factors.tensors.values()
            parts += sum(info.nbytes * _coded(info) for info in own)
    return int(parts)


def _coded(info: TensorInfo) -> float:
    """About which share of a tensor's bytes is left of it; mantissas are noise."""
    return 0.67 if ITEMSIZE[info.dtype] < ITEMSIZE["F32"] else 0.83


def _originals(family: Family, plan: Plan, options: PackOptions) -> dict[str | None, Originals]:
    """Return the models (None: the base) whose weight files are to come back as they were.

    They are the exact tasks; and a base that is carried, if a task is exact or if the base's file
    is not one that unpacking writes anyway.
    """
    kept: dict[str | None, Originals] = {
        task.name: task.originals
        for task, planned in zip(family.tasks, plan.tasks, strict=True)
        if task.originals
        and (
            "exact" in options.tiers_of(task.name)
            or all(entry.kind not in TIERS for entry in planned.values())
        )
    }
    base = family.base
    if base.originals and options.base == "embed" and (kept or not _is_usual(base)):
        kept[None] = base.originals
    return kept


def _is_usual(model: Checkpoint) -> bool:
    """Tell whether the weights are one file, just as unpacking writes it."""
    assert model.originals is not None
    files, tensors = model.originals.files, model.tensors
    return (
        [file.name for file in files] == ["model.safetensors"]
        and not model.originals.index
        and sum(info.nbytes for info in tensors.values()) <= SHARD_BYTES
        and files[0].head() == usual_head(tensors, usual_order(tensors))
    )
