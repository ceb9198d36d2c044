"""Read, merge, add, write: the main path of `taskstore merge`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskstore.errors import InputError, NotFinite, OutputError
from taskstore.executors import ordered_map
from taskstore.format.dtypes import MASKED
from taskstore.kernels import cpu, floats
from taskstore.locations import publish
from taskstore.locations.base import PathLike
from taskstore.merging import card, kinship, needed_statistics
from taskstore.merging.methods import Method, split
from taskstore.merging.options import MergeOptions
from taskstore.merging.outputs import Output, Outputs, decide
from taskstore.merging.report import MergeReport
from taskstore.merging.task_vectors import Block, Source, VectorScan, blocks
from taskstore.merging.training_runs import spread
from taskstore.models import Checkpoint, TensorInfo
from taskstore.models.compare import compare
from taskstore.models.config import TORCH, read_config, write_config
from taskstore.models.family import Family, open_family
from taskstore.models.folder import copy_assets, write_weights
from taskstore.progress import Callback, Meter, silent

Bits = NDArray[Any]
Work = Callable[[], tuple[str, Bits]]


def merge(
    base: PathLike,
    models: Mapping[str, PathLike],
    target: PathLike,
    options: MergeOptions,
    progress: Callback = silent,
    notes: Mapping[str, str] | None = None,
    section: str = "",
) -> MergeReport:
    """Write one merged model to the folder `target`; nothing is there until all of it is.

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
    if source is not None:
        return _written(source, outputs, target, options, progress, section)
    method = options.made()
    statistics = needed_statistics.opened(
        family, method, options.method, options.statistics, options.jobs
    )
    with statistics as files:
        kinds = options.info.statistics
        source = Source(family, method, options.chunk, options.weights, files, kinds)
        return _written(source, outputs, target, options, progress, section)


def _written(
    source: Source,
    outputs: Outputs,
    target: Path,
    options: MergeOptions,
    progress: Callback,
    section: str,
) -> MergeReport:
    family, method = source.family, source.method
    infos = {name: output.info for name, output in outputs.tensors.items()}
    meter = Meter(progress, _bytes(family, outputs, method))
    _fit(source, outputs, options, meter)
    publish.check_space(target.absolute().parent, sum(info.nbytes for info in infos.values()))
    with publish.folder(target, overwrite=options.overwrite, ours=is_merged) as folder:
        meter.stage("merging", "")
        left = {name: _read_bytes(family, output) for name, output in outputs.tensors.items()}
        write_weights(
            folder,
            infos,
            options.shard_bytes,
            lambda names: _merge_blocks(source, outputs, names, options),
            lambda name, _: meter.add(name, left.pop(name, 0)),
        )
        report = MergeReport(
            path=target,
            method=options.method,
            options=dict(method.options),
            alpha=options.scale,
            weights={task.name: options.weights.get(task.name, 1.0) for task in family.tasks},
            base=family.base.name,
            models=[task.name for task in family.tasks],
            tensors=sum(bool(output.tasks) for output in outputs.tensors.values()),
            parameters=sum(info.numel for info in infos.values() if info.dtype in MASKED),
            bytes=sum(info.nbytes for info in infos.values()),
            notes=dict(outputs.notes),
        )
        _write_assets(family, options, folder)
        (folder / "README.md").write_text(card.render(report, family) + section, encoding="utf-8")
    return report


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


def _fit(source: Source, outputs: Outputs, options: MergeOptions, meter: Meter) -> None:
    merged = [
        (name, source.family.base.tensors[name], output.tasks)
        for name, output in sorted(outputs.tensors.items())
        if output.tasks and output.source == name
    ]
    in_flight = options.in_flight(len(source.family.tasks))
    scan = VectorScan(
        source.family, merged, options.chunk, options.jobs, in_flight, meter.add, source.block
    )
    source.method.fit(scan)


def _merge_blocks(
    source: Source, outputs: Outputs, names: list[str], options: MergeOptions
) -> Iterator[tuple[str, Bits]]:
    """The blocks of one weight file, in the order of its tensors."""
    return ordered_map(
        lambda item: item(),
        _work(source, outputs, names, options),
        jobs=options.jobs,
        in_flight=options.in_flight(len(source.family.tasks)),
    )


def _work(
    source: Source, outputs: Outputs, names: list[str], options: MergeOptions
) -> Iterator[Work]:
    """One item per block, in the order of `names`."""
    for name in names:
        output = outputs.tensors[name]
        if output.source:
            yield from _merged(source, name, output, options)
        if output.copied is not None:
            yield from _copied(name, output, output.copied, options.chunk)


def _merged(source: Source, name: str, output: Output, options: MergeOptions) -> Iterator[Work]:
    base, dtype, alpha = source.family.base, output.info.dtype, options.scale
    info = base.tensors[output.source]

    def one(block: Block) -> tuple[str, Bits]:
        if not block.tasks:
            bits_N = base.read(block.name, block.start, block.stop)
            return name, cpu.cast(bits_N, info.dtype, dtype)
        vectors = source.block(block)
        return name, added(vectors.theta0_N, source.merge(vectors), alpha, dtype, name)

    for block in blocks(output.source, info, output.tasks, options.chunk):
        yield lambda block=block: one(block)  # type: ignore[misc]


def added(
    theta0_N: NDArray[np.float32],
    tau_N: NDArray[np.float32],
    alpha: float,
    dtype: str,
    tensor: str,
) -> Bits:
    """round(theta_0 + alpha tau) as bits of `dtype`, (N,); raises where that is not finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        scaled_N = tau_N if alpha == 1 else tau_N * np.float32(alpha)
        bits_N = floats.from_float32(theta0_N + scaled_N, dtype)
    if not floats.all_finite(bits_N, dtype):
        if not np.isfinite(tau_N).all():
            raise NotFinite("the merged vector", tensor)
        raise InputError(
            f"tensor {tensor!r} overflows {dtype} when it is merged; take a smaller --alpha or "
            "another --dtype"
        )
    return bits_N


def _copied(name: str, output: Output, model: Checkpoint, chunk: int) -> Iterator[Work]:
    """Elements from `output.start` on of a model's tensor, in the output's dtype."""
    theirs = model.tensors[name]

    def one(block: Block) -> tuple[str, Bits]:
        start, stop = output.start + block.start, output.start + block.stop
        bits_N = model.read(name, start, stop)
        if not floats.all_finite(bits_N, theirs.dtype):
            raise NotFinite(model.name, name)
        same = theirs.dtype == output.info.dtype
        return name, bits_N if same else cpu.cast(bits_N, theirs.dtype, output.info.dtype)

    rest = TensorInfo(theirs.dtype, (theirs.numel - output.start,))
    for block in blocks(name, rest, (), chunk):
        yield lambda block=block: one(block)  # type: ignore[misc]
