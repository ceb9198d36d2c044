"""The manifest before anything is coded: all structure, no checksums yet."""

from __future__ import annotations

from collections.abc import Mapping

from taskstore.checkpoint import Checkpoint
from taskstore.format.dtypes import plain_codec
from taskstore.format.manifest import VERSION, Base, Manifest, Merge, Task, TaskTensor, Tensor
from taskstore.format.names import plain
from taskstore.options import PackOptions
from taskstore.plan import Entry, Plan
from taskstore.vectors import Family
from taskstore.version import __version__

PENDING = "0" * 64
VERSIONS: Mapping[tuple[str, ...], int] = {
    ("mask",): 1,
    ("exact",): 2,
}  # by tiers; others need the newest


def make(
    family: Family,
    plan: Plan,
    options: PackOptions,
    merge: Mapping[str, float],
    codings: Mapping[str, str],
) -> Manifest:
    """Everything that files and readers need to know, with `PENDING` for each checksum."""
    carried = options.base == "embed"
    base = family.base
    return Manifest(
        format="taskstore",
        version=VERSIONS.get(options.rungs, VERSION),
        writer=f"taskstore {__version__}",
        chunk=options.chunk,
        base=Base(
            name=plain(base.name),
            carried=carried,
            source=_hub_id(base) if carried else base.source,
            revision=base.revision,
            original_bytes=base.original_bytes,
            assets={},
        ),
        merge=Merge(method=options.method, options=dict(merge)),
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
                origin=plain(task.path.name),
                source=_hub_id(task),
                revision=task.revision,
                original_bytes=task.original_bytes,
                assets={},
                tensors={
                    name: _entry(name, entry, base) for name, entry in planned.entries.items()
                },
                bits=options.bits_of(task.name) if "rest" in options.rungs else None,
                tiers=None if options.rungs in VERSIONS else list(options.rungs),  # type: ignore[arg-type]
            )
            for task, planned in zip(family.tasks, plan.tasks, strict=True)
        },
        assets={},
        files={},
    )


def _hub_id(model: Checkpoint) -> str | None:
    return model.source if model.revision else None


def _entry(name: str, entry: Entry, base: Checkpoint) -> TaskTensor:
    dtype, shape = entry.info.dtype, list(entry.info.shape)
    if entry.kind == "private":
        return TaskTensor(
            kind="private", dtype=dtype, shape=shape, reason=entry.reason, blake3=PENDING
        )
    if entry.kind == "alias":
        return TaskTensor(kind="alias", of=entry.of, blake3=PENDING)
    if entry.kind == "base":
        return TaskTensor(kind="base", blake3=PENDING)
    theirs = base.tensors[name]
    grown = shape if tuple(shape) != theirs.shape else None
    if entry.kind == "exact":
        return TaskTensor(kind="exact", shape=grown, blake3=PENDING)
    cast = dtype if dtype != theirs.dtype else None
    if entry.kind == "rest":
        return TaskTensor(kind="rest", dtype=cast, shape=grown, blake3=PENDING)
    return TaskTensor(kind="mask", dtype=cast, shape=grown, ones=0, blake3=PENDING)
