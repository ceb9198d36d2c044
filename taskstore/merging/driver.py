"""Merge several models into one: the main path of `taskstore merge`."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from typing import Any

from taskstore.errors import OutputError
from taskstore.locations import ownership, publish
from taskstore.locations.base import PathLike
from taskstore.locations.remote import mirror, outbox
from taskstore.merging import card, kinship
from taskstore.merging.job import MergeJob, VectorScan, make_job, read_bytes
from taskstore.merging.merged_blocks import kept_apart, merged_blocks, write_apart
from taskstore.merging.methods import split
from taskstore.merging.options import MergeOptions
from taskstore.merging.outputs import donor_of, named
from taskstore.merging.report import MergeReport
from taskstore.merging.scratch import KeptVector
from taskstore.merging.task_vectors import Source
from taskstore.merging.training_runs import spread
from taskstore.models.config import CONFIG, TORCH, read_config, write_config, write_settings
from taskstore.models.family import Family, open_family
from taskstore.models.folder import copy_assets, in_order, write_weights
from taskstore.progress import Callback, silent

DTYPES = ("dtype", "torch_dtype")  # members of config.json that say a model's dtype
View = Callable[[Family], AbstractContextManager[Family]]
_log = logging.getLogger(__name__)


def merge(
    base: PathLike,
    models: Mapping[str, PathLike],
    target: PathLike,
    options: MergeOptions,
    progress: Callback = silent,
    notes: Mapping[str, str] | None = None,
    section: str = "",
    kept: KeptVector | None = None,
    view: View = nullcontext,
) -> MergeReport:
    """Write one merged model to the folder `target`, which appears only when it is complete.

    `models` maps names to model folders, weight files or LoRA adapter folders, or training runs for
    methods that average checkpoints. `notes` come before the report's own; `section` is the end of
    the model card; `kept` has the merged vector, or gets it; `view` is what of the models is
    merged. Raises InputError for what cannot be merged and OutputError for a target that cannot be
    written.
    """
    check_target(Path(target), options, [base, *models.values()])
    models, of_runs = spread(models, split(options.method).method, options.last)
    with closing(open_family(base, models)) as opened, view(opened) as family:
        notes = {**(notes or {}), **of_runs}
        return merge_family(
            family, Path(target), options, progress, notes=notes, section=section, kept=kept
        )


def merge_family(
    family: Family,
    target: Path,
    options: MergeOptions,
    progress: Callback = silent,
    source: Source | None = None,
    notes: Mapping[str, str] | None = None,
    section: str = "",
    kept: KeptVector | None = None,
) -> MergeReport:
    """`merge` of models that are open, wherever they come from.

    `source` gives the vectors; None: they are read from the family.
    """
    options.check_tasks([task.name for task in family.tasks], family.base.name)
    if not options.unrelated:
        kinship.check(family)
    count, threads = len(family.tasks), options.jobs
    _log.info("merging %d models into %s: %s, %d threads", count, target, options.method, threads)
    with make_job(family, options, progress, source, notes or {}, kept) as job:
        _fit(job)
        return _written(job, target, section)


def _fit(job: MergeJob) -> None:
    """Let the method look at all task vectors, if it needs to."""
    if job.source.kept and job.source.kept.whole:
        return
    base = job.family.base.tensors
    shared = [(name, base[name], output.tasks) for name, output in job.outputs.merged()]
    job.source.method.fit(VectorScan(job.source, shared, job.executor, job.meter.add))


def _written(job: MergeJob, target: Path, section: str) -> MergeReport:
    """Write the weights, the files beside them and the model card."""
    report = MergeReport.of(job, target)
    if not mirror.address_of(target):
        publish.check_space(target.absolute(), report.bytes)
    with (
        kept_apart(job, target) as made,
        _folder(target, overwrite=job.options.overwrite) as folder,
    ):
        job.meter.stage("merging", "")
        if made:
            write_apart(job, made, target, folder)
        else:
            _write_weights(job, folder)
        job.source.prove()
        _write_assets(job, folder)
        text = card.render(report, job.family) + section
        (folder / "README.md").write_text(text, encoding="utf-8")
        ownership.write_note(folder)
    return report


def _folder(target: Path, *, overwrite: bool) -> AbstractContextManager[Path]:
    address = mirror.address_of(target)
    if address:
        return outbox.folder(address)
    return publish.folder(target, overwrite=overwrite, foreign=ownership.not_noted)


def _write_weights(job: MergeJob, folder: Path) -> None:
    """Merge block by block into weight files; a tensor counts as read at its first block."""
    unread = {name: read_bytes(job.family, o) for name, o in job.outputs.tensors.items()}
    write_weights(
        folder,
        job.outputs.infos,
        job.options.shard_bytes,
        lambda names, place: in_order(merged_blocks(job, names), place),
        lambda name, _: job.meter.add(name, unread.pop(name, 0)),
    )


def _write_assets(job: MergeJob, folder: Path) -> None:
    """Write tokenizer and config: those of one model, or the base's and what all models share.

    A head fits only the config that it came with, and brings it. The size of the vocabulary is the
    tokenizer's.
    """
    family, options = job.family, job.options
    donor = donor_of(family, options) or family.base
    head = named(family, options.private_from) or donor
    changes: dict[str, Any] = {}
    if options.dtype:
        changes |= dict.fromkeys(DTYPES, TORCH[options.dtype])
    rows = None if head is donor else read_config(donor).get("vocab_size")
    if rows is not None:
        changes["vocab_size"] = rows
    copy_assets({**donor.assets, **donor.beside}, folder)
    for path, raw in job.outputs.files.items():
        (folder / path).write_bytes(raw)
    if head is not donor or CONFIG not in job.outputs.files:
        write_config(head, folder, changes)
    elif changes:
        settings = json.loads(job.outputs.files[CONFIG])
        settings |= {key: value for key, value in changes.items() if key in settings}
        write_settings(folder / CONFIG, settings)


def check_target(target: Path, options: MergeOptions, inputs: Iterable[PathLike]) -> None:
    """Raise TargetExists or OutputError unless `target` may be written; it may hold no input."""
    address = mirror.address_of(target)
    if address:
        outbox.check(address)
        return
    publish.check_target(
        target.absolute(), overwrite=options.overwrite, foreign=ownership.not_noted
    )
    place = Path(os.path.realpath(target))
    for path in map(Path, (*inputs, *options.statistics.values())):
        inside = path.iterdir() if path.is_dir() else ()  # a model's files may be links
        files = [p for p in inside if p.is_file()]
        if any(Path(os.path.realpath(p)).is_relative_to(place) for p in (path, *files)):
            raise OutputError(f"{target} is or holds {path}, which is merged; write elsewhere")
