"""The way in: a base and its fine-tunes become a store.

Tensor by tensor, chunk by chunk: read, subtract, merge, mask, encode, write. A chunk is worked on
in one thread from reading to coding; the main thread writes and hashes in order. Memory is a few
chunks of the family, whatever the models' size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

from taskstore.errors import InputError
from taskstore.executors import ordered_map
from taskstore.format import names
from taskstore.format.dtypes import ITEMSIZE
from taskstore.format.manifest import Manifest
from taskstore.locations import publish
from taskstore.locations.base import PathLike
from taskstore.merging import needed_statistics
from taskstore.merging.methods import info_of, make
from taskstore.merging.task_vectors import Source, VectorScan
from taskstore.models import Originals
from taskstore.models.compare import Plan
from taskstore.models.family import Family, open_family
from taskstore.packing import manifest_draft
from taskstore.packing import plan as planning
from taskstore.packing.block_coder import Coder
from taskstore.packing.mask_files import matching
from taskstore.packing.mask_files.matching import Imported
from taskstore.packing.options import PackOptions
from taskstore.packing.report import PackReport
from taskstore.packing.writer import StoreWriter
from taskstore.progress import Callback, Meter, silent
from taskstore.store.contents import is_store


def pack(
    base: PathLike,
    finetunes: Mapping[str, PathLike],
    target: PathLike,
    options: PackOptions | None = None,
    progress: Callback = silent,
) -> PackReport:
    """Write the family to the folder `target`; nothing is there until all of it is.

    `finetunes` maps task names to model folders, weight files or LoRA adapter folders. Raises
    InputError for what cannot be packed and OutputError for a target that cannot be written.
    """
    options = options or PackOptions()
    publish.check_target(Path(target).absolute(), overwrite=options.overwrite, ours=is_store)
    options.check_tasks(finetunes)
    with closing(open_family(base, finetunes)) as family:
        if options.base == "reference" and names.has_control(family.base.source or ""):
            raise InputError(f"the path of the base, {family.base.source!r}, cannot be recorded")
        return pack_family(family, Path(target), options, progress)


def pack_family(
    family: Family, target: Path, options: PackOptions, progress: Callback = silent
) -> PackReport:
    """`pack` of models that are open, wherever they come from."""
    plan = planning.make(family, options.rungs[0])
    masks = matching.of(family, plan, options)
    kept = manifest_draft.originals(family, plan, options)
    meter = Meter(progress, _total_bytes(family, options, kept))
    with publish.folder(target, overwrite=options.overwrite, ours=is_store) as folder:
        manifest = _write(family, plan, kept, masks, options, meter, folder)
    report = PackReport.of(target, manifest, family)
    return replace(report, warnings=[*report.warnings, *(masks.warnings() if masks else ())])


def _total_bytes(family: Family, options: PackOptions, kept: Mapping[str | None, Originals]) -> int:
    """Weights that will be read, over all passes."""
    passes = 1 + (
        make(options.method, options.merge_options).passes if "mask" in options.rungs else 0
    )
    models = (family.base, *family.tasks)
    weights = sum(info.nbytes for model in models for info in model.tensors.values())
    return passes * weights + sum(file.size for model in kept.values() for file in model.files)


@contextmanager
def _fitted(
    family: Family, plan: Plan, options: PackOptions, meter: Meter
) -> Iterator[tuple[Source, int]]:
    """The merge method, having seen what it needs, and how many blocks may be in flight."""
    method = make(options.method, options.merge_options)
    itemsize = max(ITEMSIZE[i.dtype] for i in family.base.tensors.values())
    in_flight = options.in_flight(len(family.tasks), itemsize)
    masked = [
        (name, info, plan.tasks_of(name, "mask"))
        for name, info in sorted(family.base.tensors.items())
    ]
    shared = [entry for entry in masked if entry[2]]
    given = options.statistics
    with needed_statistics.opened(
        family, method, options.method, given, options.jobs
    ) as statistics:
        kinds = info_of(options.method).statistics
        source = Source(family, method, options.chunk, statistics=statistics, kinds=kinds)
        if shared:
            scan = VectorScan(
                family, shared, options.chunk, options.jobs, in_flight, meter.add, source.block
            )
            method.fit(scan)
        yield source, in_flight


def _write(
    family: Family,
    plan: Plan,
    kept: Mapping[str | None, Originals],
    masks: Imported | None,
    options: PackOptions,
    meter: Meter,
    folder: Path,
) -> Manifest:
    with _fitted(family, plan, options, meter) as (source, in_flight):
        coder = Coder(source, plan, options, in_flight, masks)
        merged = source.method.options
        manifest = manifest_draft.make(family, plan, options, merged, coder.codings)
        writer = StoreWriter(folder, manifest, options.shard_bytes, options.jobs)
        try:
            for coded in ordered_map(
                lambda work: work(), coder.work(), jobs=options.jobs, in_flight=in_flight
            ):
                writer.write(coded)
                meter.add(coded.name, coded.read_bytes)
            _check_moved(family, plan, writer)
            meter.stage("checking", family.base.name)
            return writer.finish(family, kept, options.jobs, meter.add)
        finally:
            writer.abort()


def _check_moved(family: Family, plan: Plan, writer: StoreWriter) -> None:
    """A task that is the base in disguise is a mistake in the call."""
    for task, planned in zip(family.tasks, plan.tasks, strict=True):
        own = any(
            entry.kind == "private" or entry.info.shape != family.base.tensors[name].shape
            for name, entry in planned.entries.items()
            if entry.kind != "alias"
        )
        if not own and task.name not in writer.moved:
            raise InputError(
                f"task {task.name!r} has the base's weights, all of them; leave it out"
            )
