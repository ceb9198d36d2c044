"""Read, merge, add, write: the main path of `taskstore merge`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

from taskstore.errors import OutputError
from taskstore.executors import Executor, Threads
from taskstore.format.dtypes import MASKED
from taskstore.locations import publish
from taskstore.locations.base import PathLike
from taskstore.merging import card, kinship, needed_statistics
from taskstore.merging.merged_blocks import MergeJob, merged_blocks
from taskstore.merging.methods import Method, split
from taskstore.merging.options import MergeOptions
from taskstore.merging.outputs import Output, Outputs, decide
from taskstore.merging.report import MergeReport
from taskstore.merging.task_vectors import Source, VectorScan
from taskstore.merging.training_runs import spread
from taskstore.models import Checkpoint
from taskstore.models.compare import compare
from taskstore.models.config import TORCH, read_config, write_config
from taskstore.models.family import Family, open_family
from taskstore.models.folder import copy_assets, write_weights
from taskstore.progress import Callback, Meter, silent


def merge(
    base: PathLike,
    models: Mapping[str, PathLike],
    target: PathLike,
    options: MergeOptions,
    progress: Callback = silent,
    notes: Mapping[str, str] | None = None,
    section: str = "",
) -> MergeReport:
    """Write one merged model to the folder `target`; it appears only when it is complete.

    `models` maps names to model folders, weight files or LoRA adapter folders, or training runs for
    methods that average checkpoints; `notes` come before the report's own, `section` is the end of
    the model card. Raises InputError for what cannot be merged and OutputError for a target that
    cannot be written.
    """
    check_target(Path(target), options, [base, *models.values()])
    models, of_runs = spread(models, split(options.method)[0], options.last)
    with closing(open_family(base, models)) as family:
        notes = {**(notes or {}), **of_runs}
        return merge_family(family, Path(target), options, progress, notes=notes, section=section)


def check_target(target: Path, options: MergeOptions, inputs: Iterable[PathLike]) -> None:
    """Raise TargetExists or OutputError unless the target may be written; an input never is it."""
    publish.check_target(target.absolute(), overwrite=options.overwrite, ours=is_merged)
    place = Path(os.path.realpath(target))
    for path in map(Path, (*inputs, *options.statistics.values())):
        inside = path.iterdir() if path.is_dir() else ()  # a model's files may be links
        files = [p for p in inside if p.is_file()]
        if any(Path(os.path.realpath(p)).is_relative_to(place) for p in (path, *files)):
            raise OutputError(f"{target} is or holds {path}, which is merged; write elsewhere")


def is_merged(folder: Path) -> bool:
    """A folder that `overwrite` may replace: what a merge wrote, by its model card."""
    try:
        return card.MARK.encode() in (folder / "README.md").read_bytes()
    except OSError:
        return False


def merge_family(
    family: Family,
    target: Path,
    options: MergeOptions,
    progress: Callback = silent,
    source: Source | None = None,
    notes: Mapping[str, str] | None = None,
    section: str = "",
) -> MergeReport:
    """`merge` of models that are open, wherever they come from.

    `source` gives the vectors, where they are not simply read; `notes` come before the others;
    `section` is the end of the model card.
    """
    options.check_tasks(task.name for task in family.tasks)
    plan = compare(family)
    if not options.unrelated:
        kinship.check(family)
    outputs = decide(family, plan, options)
    outputs.notes = {**(notes or {}), **outputs.notes}
    executor = Threads(options.jobs, options.in_flight(len(family.tasks)))
    with ExitStack() as stack:
        source = source or stack.enter_context(_source(family, options, executor))
        meter = Meter(progress, _bytes(family, outputs, source.method))
        return _written(MergeJob(source, outputs, options, executor, meter), target, section)


@contextmanager
def _source(family: Family, options: MergeOptions, executor: Executor) -> Iterator[Source]:
    """The vectors as the method wants them, with the statistics that it needs."""
    method, name, paths = options.made(), options.method, options.statistics
    with needed_statistics.opened(family, method, name, paths, executor) as files:
        kinds = options.info.statistics
        yield Source(family, method, options.chunk, options.weights, files, kinds)


def _written(job: MergeJob, target: Path, section: str) -> MergeReport:
    """Fit the method, then write weights, files beside them, and the card."""
    family, options, outputs = job.source.family, job.options, job.outputs.tensors
    infos = {name: output.info for name, output in outputs.items()}
    _fit(job)
    publish.check_space(target.absolute().parent, sum(info.nbytes for info in infos.values()))
    with publish.folder(target, overwrite=options.overwrite, ours=is_merged) as folder:
        job.meter.stage("merging", "")
        left = {name: _read_bytes(family, output) for name, output in outputs.items()}
        write_weights(
            folder,
            infos,
            options.shard_bytes,
            lambda names: merged_blocks(job, names),
            lambda name, _: job.meter.add(name, left.pop(name, 0)),
        )
        report = _report(job, target)
        _write_assets(family, options, folder)
        (folder / "README.md").write_text(card.render(report, family) + section, encoding="utf-8")
    return report


def _report(job: MergeJob, target: Path) -> MergeReport:
    family, options, outputs = job.source.family, job.options, job.outputs.tensors.values()
    return MergeReport(
        path=target,
        method=options.method,
        options=dict(job.source.method.options),
        alpha=options.scale,
        weights={task.name: options.weights.get(task.name, 1.0) for task in family.tasks},
        base=family.base.name,
        models=[task.name for task in family.tasks],
        tensors=sum(bool(output.tasks) for output in outputs),
        parameters=sum(output.info.numel for output in outputs if output.info.dtype in MASKED),
        bytes=sum(output.info.nbytes for output in outputs),
        notes=dict(job.outputs.notes),
    )


def _write_assets(family: Family, options: MergeOptions, folder: Path) -> None:
    """Tokenizer and the like of one model; the config of that one too, or of where heads come from.

    A head fits only the config that it came with; the vocabulary is that of the tokenizer.
    """
    donor = _named(family, options.tokenizer_from) or family.base
    changes: dict[str, Any] = {}
    if options.dtype:
        changes |= dict.fromkeys(card.DTYPES, TORCH[options.dtype])
    copy_assets(donor.assets, folder)
    head = _named(family, options.private_from) or donor
    if head is not donor:
        rows = read_config(donor).get("vocab_size")
        changes |= {} if rows is None else {"vocab_size": rows}
    write_config(head, folder, changes)


def _named(family: Family, name: str | None) -> Checkpoint | None:
    return next((task for task in family.tasks if task.name == name), None)


def _read_bytes(family: Family, output: Output) -> int:
    """Weights that are read for one tensor, once over."""
    models = [family.base, *(family.tasks[t] for t in output.tasks)] if output.source else []
    read = sum(model.tensors[output.source].nbytes for model in models)
    return read if output.source else output.info.nbytes


def _bytes(family: Family, outputs: Outputs, method: Method) -> int:
    """Weights that will be read, over all passes."""
    total = 0
    for name, output in outputs.tensors.items():
        passes = method.passes if output.tasks and output.source == name else 0
        total += (1 + passes) * _read_bytes(family, output)
    return total


def _fit(job: MergeJob) -> None:
    """Let the method see all task vectors, where it needs to."""
    family = job.source.family
    merged = [
        (name, family.base.tensors[name], output.tasks)
        for name, output in sorted(job.outputs.tensors.items())
        if output.tasks and output.source == name
    ]
    job.source.method.fit(VectorScan(job.source, merged, job.executor, job.meter.add))
