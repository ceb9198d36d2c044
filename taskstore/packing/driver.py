"""A base and its fine-tunes become a store.

Work goes block by block: read, merge, mask, code, write. One worker does a block from reading to
coding; the main thread writes and hashes in order. Memory is a few blocks of the family.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from taskstore.errors import InputError
from taskstore.format import names
from taskstore.format.manifest import Manifest
from taskstore.locations import dry
from taskstore.locations.base import PathLike
from taskstore.merging import needed_statistics
from taskstore.merging.job import VectorScan
from taskstore.merging.methods import Method, info_of, make
from taskstore.merging.methods.matrix_memory import reserved
from taskstore.merging.task_vectors import Source
from taskstore.merging.training_runs import spread
from taskstore.models.family import Family, open_family
from taskstore.packing import manifest_draft
from taskstore.packing.auto.choose import decided, finer
from taskstore.packing.block_coder import Coder, code, parts_of
from taskstore.packing.elsewhere.sending import check_target, store_folder
from taskstore.packing.job import PackJob, expected_bytes, make_job
from taskstore.packing.low_rank import driver as low_rank
from taskstore.packing.options import PackOptions
from taskstore.packing.report import PackReport
from taskstore.packing.writer import StoreWriter, Tally
from taskstore.progress import Callback, silent
from taskstore.public import public
from taskstore.store import card

_log = logging.getLogger(__name__)
Writer = Callable[[PackJob, PackOptions, Path, "Noted"], Manifest]  # files, into a folder
Noted = Callable[[Manifest], Manifest]


@public
def pack(
    base: PathLike,
    finetunes: Mapping[str, PathLike],
    target: PathLike,
    options: PackOptions | None = None,
    progress: Callback = silent,
) -> PackReport:
    """Write the family to `target`, a folder or an address, where it appears when it is complete.

    `finetunes` maps task names to model folders, weight files or LoRA adapter folders; the folder
    of a training run stands for its checkpoints in an archive (tier exact). Raises InputError for
    what cannot be packed and OutputError for a target that cannot be written.

    >>> finetunes = {name: f"family/{name}" for name in ("english", "german", "roman", "spanish")}
    >>> report = taskstore.pack("family/base", finetunes, "numerals")
    >>> print(f"{report.summary.ratio:.1f} times smaller")
    5.7 times smaller
    >>> options = taskstore.PackOptions(tiers="exact")
    >>> report = taskstore.pack("family/base", {"english": "family/english"}, "archive", options)
    >>> report.summary.tasks[0].fidelity.words
    'exact'
    """
    options = options or PackOptions()
    check_target(target, overwrite=options.overwrite)
    finetunes, notes = every(finetunes, options)
    with closing(opened(base, finetunes, options)) as family:
        report = pack_family(family, target, options, progress)
    return replace(report, warnings=[*report.warnings, *notes])


def every(
    finetunes: Mapping[str, PathLike], options: PackOptions
) -> tuple[Mapping[str, PathLike], list[str]]:
    """Return the fine-tunes, with a run's checkpoints where bits are kept, and what to say of it.

    Raises OptionError for an option that names none of them.
    """
    notes: dict[str, str] = {}
    if "exact" in options.tier_names:
        finetunes, notes = spread(finetunes, "average")
    options.check_tasks(finetunes)
    return finetunes, [f"{name}: {note}" for name, note in notes.items()]


def opened(base: PathLike, finetunes: Mapping[str, PathLike], options: PackOptions) -> Family:
    """Open a family that is to be packed."""
    family = open_family(base, finetunes)
    if options.base == "reference" and names.has_control(family.base.source or ""):
        family.close()
        raise InputError(f"the path of the base, {family.base.source!r}, cannot be recorded")
    return family


def pack_family(
    family: Family,
    target: PathLike,
    options: PackOptions,
    progress: Callback = silent,
    noted: Noted = lambda draft: draft,
    write: Writer | None = None,
) -> PackReport:
    """Pack models that are open, wherever they come from.

    `noted` puts scores into the manifest; `write` writes files, None: this process.
    """
    with_size = partial(_published, target, options, noted, write or _written)
    return _packed(family, target, options, progress, with_size)[1]


def code_family(
    family: Family,
    folder: Path,
    options: PackOptions,
    progress: Callback = silent,
    taken: Noted = lambda new: new,
    write: Writer | None = None,
) -> tuple[Manifest, PackReport]:
    """Write the files of a pack, but for card and manifest, into a folder that is new.

    `taken` is given their manifest, and returns that of the store that takes them in.
    """
    loose = partial(_loose, folder, options, taken, write or _written)
    return _packed(family, folder, options, progress, loose)


def _packed(
    family: Family,
    target: PathLike,
    options: PackOptions,
    progress: Callback,
    write: Callable[[PackJob], tuple[Manifest, int]],
) -> tuple[Manifest, PackReport]:
    """Decide what is packed, and `write` it, until it is as near as was asked for."""
    asked, began = make_job(family, options, progress), time.perf_counter()
    refused: set[tuple[str, str]] = set()
    while True:
        job, choice = decided(asked, refused)
        dry.note(expected_bytes(job))
        _log.info("packing %d fine-tunes of %s into %s: %s", len(family.tasks), family.base.name,
                  target, _chosen(job.options))  # fmt: skip
        try:
            manifest, size = write(job)
        except NotNear as found:
            refused |= found.refused
        else:
            break
    report = PackReport.of(target, manifest, size, family)
    more = [f"{b}: the same model as {a}, bit for bit" for a, b in job.twins]
    more += job.masks.warnings() if job.masks else ()
    took, ratio = time.perf_counter() - began, report.summary.ratio
    _log.info("packed %s in %.1f s: %.2fx smaller", target, took, ratio)
    warnings = [*report.warnings, *more]
    return manifest, replace(report, warnings=warnings, notes=choice.notes, others=choice.others)


def _published(
    target: PathLike,
    asked: PackOptions,
    noted: Noted,
    write: Writer,
    job: PackJob,
) -> tuple[Manifest, int]:
    """Make a store of its own; returns the size of its manifest's file, too."""
    with store_folder(target, overwrite=job.options.overwrite) as folder:
        manifest = card.seal(folder, write(job, asked, folder, noted))
        return manifest, (folder / names.MANIFEST).stat().st_size


def _loose(
    folder: Path,
    asked: PackOptions,
    taken: Noted,
    write: Writer,
    job: PackJob,
) -> tuple[Manifest, int]:
    dry.stop()
    shutil.rmtree(folder, ignore_errors=True)  # of a try that was not near enough
    folder.mkdir()
    return taken(write(job, asked, folder, lambda draft: draft)), 0


class NotNear(Exception):
    """Tasks and tiers, as they were packed, with a larger error than auto was asked for."""

    def __init__(self, refused: set[tuple[str, str]]) -> None:
        super().__init__(refused)
        self.refused = refused


def _written(job: PackJob, asked: PackOptions, folder: Path, noted: Noted) -> Manifest:
    """Write a store's files; raises NotNear where they are not as near as was `asked` for."""
    with fitted(job) as source:
        coder = Coder.of(job, source)
        draft = noted(manifest_draft.make(job, source.method.options, coder.codings))
        with StoreWriter(folder, draft, job) as writer:
            _code(coder, writer)
            if asked.largest_error is not None:
                _refine(coder, writer, asked, asked.largest_error)
            job.meter.stage("checking", job.family.base.name)
            job.family.prove()
            check_moved(job, writer.tally.moved)
            return writer.finish(coder.share)


def _code(coder: Coder, writer: StoreWriter) -> None:
    for block in coder.job.executor.map(code, coder, coder.units()):
        writer.write(block)
        coder.job.meter.add(block.name, block.read_bytes)


def _refine(coder: Coder, writer: StoreWriter, asked: PackOptions, most: float) -> None:
    """Code rests once more, and finer, whose error over all weights is above `most`."""
    job = coder.job
    tier, far = job.options.tier_names[0], too_far(job, writer.tally, asked, most)
    if far and tier == "rest":
        more = {name: finer(job.options.bits_of(name), error, most) for name, error in far.items()}
        writer.again(more)
        _code(again(coder, more), writer)
        far = too_far(job, writer.tally, asked, most)
    if far:
        raise NotNear({(name, tier) for name in far})


def too_far(job: PackJob, tally: Tally, asked: PackOptions, most: float) -> dict[str, float]:
    """Return the error of each task, of those that were searched for, where it is above `most`."""
    mine = {t.name for t in job.family.tasks} - set(asked.residuals) - set(job.options.own_tiers)
    tier = job.options.tier_names[0]
    return {name: e for name in sorted(mine) if (e := tally.error(name, tier)) > most}


def again(coder: Coder, bits: Mapping[str, float]) -> Coder:
    """Return what codes the rests of some tasks once more, with other bits."""
    options = coder.job.options
    job = replace(coder.job, options=replace(options, residuals={**options.residuals, **bits}))
    wanted = frozenset(t for t, task in enumerate(job.family.tasks) if task.name in bits)
    return replace(coder, job=job, wanted=wanted, low_ranks=parts_of(job))


def _chosen(options: PackOptions) -> str:
    """Say what was decided, for the log."""
    masks = f", method {options.method}, lambda {options.lam_of(''):g}"
    shown = ",".join(options.tier_names)
    return f"tiers {shown}{masks if 'mask' in shown else ''}, {options.jobs} threads"


@contextmanager
def fitted(job: PackJob, known: Callable[[Method], bool] = lambda _: False) -> Iterator[Source]:
    """Open the task vectors, with a merge method that has seen what it needs.

    `known` may put into the method what it has seen elsewhere, and return whether it did.
    """
    family, options = job.family, job.options
    method = make(options.method, options.merge_options)
    kinds = info_of(options.method).statistics
    files = options.statistics if kinds or "rest" not in options.tier_names else {}
    given = needed_statistics.opened(family, method, options.method, files, job.executor)
    with given as statistics, low_rank.one_thread():
        source = Source(family, method, options.chunk, statistics=statistics, kinds=kinds)
        masked = [
            (name, info, tasks)
            for name, info in sorted(family.base.tensors.items())
            if (tasks := job.plan.tasks_of(name, "mask"))
        ]
        if masked:
            wanted = ((name, info.shape, len(tasks)) for name, info, tasks in masked)
            reserved(method, options.method, wanted, options.max_memory)
        if masked and not known(method):
            method.fit(VectorScan(source, masked, job.executor, job.meter.add))
        yield source


def check_moved(job: PackJob, moved: Collection[str]) -> None:
    """Refuse a task whose weights are all the base's: the call names the wrong folder."""
    base = job.family.base.tensors
    for task, planned in zip(job.family.tasks, job.plan.tasks, strict=True):
        exact = "exact" in job.options.tiers_of(task.name)
        own = any(
            entry.kind == "private"
            or name not in base
            or entry.info.shape != base[name].shape
            or (exact and entry.info.dtype != base[name].dtype)
            for name, entry in planned.items()
            if entry.kind != "alias"
        )
        if not own and task.name not in moved:
            raise InputError(
                f"task {task.name!r} has the base's weights, all of them; leave it out"
            )
