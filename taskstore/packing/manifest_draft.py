"""Make the manifest: its structure before anything is coded, its checksums afterwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from taskstore.format import manifest as m
from taskstore.format.dtypes import plain_codec
from taskstore.format.manifest import TIERS, Base, Manifest, Merge, Sums, Task, TaskTensor, Tensor
from taskstore.format.members import Adapter, Factor, Shard
from taskstore.format.names import plain
from taskstore.format.rules.since import (
    CODECS_OF_TIERS,
    VERSION_OF_DELTAS,
    VERSION_OF_FACTORED,
    VERSION_OF_PARENTS,
    VERSION_OF_VECTORS,
)
from taskstore.locations.hub import name_of
from taskstore.models import Checkpoint
from taskstore.models.compare import TensorPlan
from taskstore.packing.job import PackJob
from taskstore.packing.low_rank.importance import file_of
from taskstore.packing.options import PackOptions
from taskstore.packing.plan import PENDING
from taskstore.statistics import Statistics
from taskstore.version import __version__

Key = tuple[str | None, str, str]  # of a digest: task (None: base), tensor, tier ("": none)
OF_ADAPTER = "adapter"  # in the place of a tier: a tensor of the adapter itself
PLAIN = (("mask",), ("exact",))  # tiers that a task does not list


def make(job: PackJob, merge: Mapping[str, float], codings: Mapping[str, str]) -> Manifest:
    """Make a manifest with all that files and readers need, and `PENDING` for each checksum.

    merge    options of the merge method    codings  codec of the multi-task weights, by tensor
    """
    plan, options, base = job.plan, job.options, job.family.base
    carried = options.base == "embed"
    return Manifest(
        format="taskstore",
        version=_version(job, codings),
        writer=f"taskstore {__version__}",
        chunk=options.chunk,
        base=Base(
            name=plain(base.name),
            carried=carried,
            source=_hub_id(base) if carried else base.source,
            revision=base.revision,
            original_bytes=base.original_bytes,
            assets={},
            left_out=_left_out(base, options.tier_names) if carried else None,
        ),
        merge=Merge(method=options.method, options={**merge, **_imported(options)}),
        tensors={
            name: Tensor(
                dtype=info.dtype,
                shape=list(info.shape),
                codec=plain_codec(info.dtype),
                multitask=codings.get(name),
                alias=plan.aliases.get(name),
                blake3=PENDING,
            )
            for name, info in sorted(base.tensors.items())
        },
        tasks={
            task.name: Task(
                lam=options.lam_of(task.name),
                origin=plain(name_of(task.path)),
                source=_hub_id(task),
                revision=task.revision,
                original_bytes=task.original_bytes,
                assets={},
                tensors={name: _entry(name, entry, base) for name, entry in planned.items()},
                names=dict(sorted(task.names.items())) or None,
                left_out=_left_out(task, options.tiers_of(task.name)),
                codecs=None
                if task.name in job.adapters
                else _codecs(options, options.tiers_of(task.name)),
                parent=job.parents.get(task.name),
                adapter=_adapter(job, task.name),
                bits=options.bits_of(task.name) if "rest" in options.tiers_of(task.name) else None,
                statistics=_measured(options, task.name, planned),
                tiers=_listed(options.tiers_of(task.name)),
            )
            for task, planned in zip(job.family.tasks, plan.tasks, strict=True)
        },
        assets={},
        files={},
    )


def with_scores(draft: Manifest, scores: Mapping[str, dict[str, m.Score]]) -> Manifest:
    """Note scores, of tasks by the name of their evaluation."""
    tasks = {
        name: msgspec.structs.replace(task, scores=scores.get(name))
        for name, task in draft.tasks.items()
    }
    return msgspec.structs.replace(draft, tasks=tasks)


def _imported(options: PackOptions) -> dict[str, float]:
    return {"imported": 1.0} if options.masks else {}


def _listed(tiers: Sequence[str]) -> list[Any] | None:
    return None if tiers in PLAIN else list(tiers)


def _left_out(model: Checkpoint, tiers: Sequence[str]) -> list[str] | None:
    """Return what an archive lacks of a model's folder."""
    return [*map(plain, model.left_out)] or None if "exact" in tiers else None


def _codecs(options: PackOptions, tiers: Sequence[str]) -> dict[str, str] | None:
    """Return the codecs of tiers that are not the usual ones."""
    found = {t: c for t, c in CODECS_OF_TIERS.items() if t in tiers}
    return found if found and options.level == "archive" else None


def _version(job: PackJob, codings: Mapping[str, str]) -> int:
    """Return the oldest version that can say what the store holds."""
    used = {entry.codec for planned in job.plan.tasks for entry in planned.values()}
    kept = [task.name for task in job.family.tasks if task.name not in job.adapters]
    for task in kept:
        used |= set((_codecs(job.options, job.options.tiers_of(task)) or {}).values())
    if "deltas" in used | set(codings.values()):
        return VERSION_OF_DELTAS
    if used & {"factored", "low_rank"}:
        return VERSION_OF_FACTORED
    return (
        VERSION_OF_PARENTS
        if job.parents or job.adapters or "sparse" in used
        else VERSION_OF_VECTORS
    )


def _measured(
    options: PackOptions, task: str, planned: Mapping[str, TensorPlan]
) -> m.Measured | None:
    """Say what the statistics are of that weighed a task's rest."""
    if (path := file_of(options, task)) is None:
        return None
    if all(entry.codec != "factored" for entry in planned.values()):
        return None
    with Statistics(path) as statistics:
        return m.Measured(examples=statistics.examples, data=statistics.about.data)


def _adapter(job: PackJob, task: str) -> Adapter | None:
    if task not in job.adapters:
        return None
    own = sorted(job.adapters[task].factors.tensors.items())
    tensors = {n: Factor(dtype=i.dtype, shape=list(i.shape), blake3=PENDING) for n, i in own}
    return Adapter(tensors=tensors, assets={})


def _hub_id(model: Checkpoint) -> str | None:
    return model.source if model.revision else None


def _entry(name: str, entry: TensorPlan, base: Checkpoint) -> TaskTensor:
    dtype, shape = entry.info.dtype, list(entry.info.shape)
    if entry.kind == "private":
        return TaskTensor(
            kind="private", dtype=dtype, shape=shape, reason=entry.reason, blake3=PENDING
        )
    if entry.kind == "alias":
        return TaskTensor(kind="alias", of=entry.of, blake3=PENDING)
    if entry.kind == "base":
        return TaskTensor(kind="base", blake3=PENDING)
    if entry.kind == "adapted":
        return TaskTensor(kind="adapted", dtype=dtype, shape=shape, made=entry.made, blake3=PENDING)
    theirs = base.tensors[name]
    return TaskTensor(
        kind=entry.kind,  # type: ignore[arg-type]
        dtype=dtype if dtype != theirs.dtype else None,
        shape=shape if tuple(shape) != theirs.shape else None,
        ones=0 if entry.kind == "mask" else None,
        codec=entry.codec,
        blake3=PENDING,
    )


def completed(
    draft: Manifest,
    digests: Mapping[Key, str],
    ones: Mapping[tuple[str, str], int],
    sums: Mapping[tuple[str, str], Any],
    beside: Mapping[str | None, dict[str, str]],
    shards: Mapping[str | None, dict[str, Shard]],
    index: Mapping[str | None, dict[str, str] | None],
    weights: Mapping[str | None, dict[str, str] | None],
    adapters: Mapping[str, Adapter],
) -> Manifest:
    """Fill in what is known once the blocks are coded.

    digests  of rebuilt tensors        ones   bits set in a task's mask of a tensor
    sums     of kernels/products.py, by task and tier
    beside, shards, index, weights     a model's (None: the base's) assets, weight files, their
                                       index, and further weights
    adapters  their files, of tasks that keep one
    """

    def with_files(model: Any, name: str | None, **changes: object) -> Any:
        return msgspec.structs.replace(
            model,
            assets=beside.get(name, {}),
            shards=shards.get(name),
            index=index.get(name),
            beside=weights.get(name),
            **changes,
        )

    return msgspec.structs.replace(
        draft,
        base=with_files(draft.base, None),
        tensors={
            name: msgspec.structs.replace(t, blake3=digests[None, t.alias or name, ""])
            for name, t in draft.tensors.items()
        },
        tasks={
            name: with_files(
                task,
                name,
                fidelity=_fidelity(name, task, sums),
                adapter=_completed_adapter(name, task, digests, adapters),
                tensors={
                    tensor: _completed_entry(name, task, tensor, digests, ones)
                    for tensor in task.tensors
                },
            )
            for name, task in draft.tasks.items()
        },
    )


def _completed_adapter(
    name: str, task: Task, digests: Mapping[Key, str], files: Mapping[str, Adapter]
) -> Adapter | None:
    if task.adapter is None:
        return None
    own = task.adapter.tensors.items()
    tensors = {n: msgspec.structs.replace(t, blake3=digests[name, n, OF_ADAPTER]) for n, t in own}
    return msgspec.structs.replace(files[name], tensors=tensors)


def _fidelity(name: str, task: Task, sums: Mapping[tuple[str, str], Any]) -> dict[str, Sums] | None:
    """Return the sums of each tier that was measured."""
    measured = [tier for tier in TIERS if (name, tier) in sums]
    return {tier: Sums.of(sums[name, tier].tolist()) for tier in measured} or None


def _completed_entry(
    task_name: str,
    task: Task,
    name: str,
    digests: Mapping[Key, str],
    ones: Mapping[tuple[str, str], int],
) -> TaskTensor:
    """Fill in one tensor; an alias has the checksums of what it stands for."""
    entry = task.tensors[name]
    of = entry.of or name
    owner = None if task.tensors[of].kind == "base" else task_name
    *lower, best = [digests[owner, of, tier] for tier in task.tiers_of(of) or ("",)]
    return msgspec.structs.replace(
        entry,
        blake3=best,
        lower=(lower or None) if entry.kind in TIERS else None,
        ones=ones.get((task_name, name), 0) if entry.kind == "mask" else None,
    )
