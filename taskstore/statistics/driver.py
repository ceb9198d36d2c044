"""Measures a model: reads examples, passes over them, writes a file that appears when complete."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from taskstore.executors import threads
from taskstore.format.dtypes import numel
from taskstore.locations import publish
from taskstore.models import digest_of
from taskstore.progress import Callback, Meter, silent
from taskstore.statistics import measured_model, records
from taskstore.statistics.examples import batches
from taskstore.statistics.grams import Grams, Linear
from taskstore.statistics.job import MeasureJob, prepared
from taskstore.statistics.options import MeasureOptions
from taskstore.statistics.passes import Plan, plan
from taskstore.statistics.squares import labels_of, squares
from taskstore.statistics.statistics_file import F32, About, is_statistics
from taskstore.statistics.writer import StatisticsWriter

BLOCK = 1 << 20


@dataclass(frozen=True)
class MeasureReport:
    """The new file and what it says."""

    path: Path
    about: About
    statistics: tuple[str, ...]
    lines: int  # examples that the data file has
    passes: int
    bytes: int

    @property
    def warnings(self) -> list[str]:
        if not self.about.truncated:
            return []
        return [
            f"{self.about.truncated} of {self.about.examples} examples were cut to "
            f"{self.about.max_length} tokens; give a larger `max_length` to keep them whole"
        ]

    def to_dict(self) -> dict[str, Any]:
        keys = ["name", "model", "data", "examples", "positions", "truncated", "max_length"]
        keys += ["loss", "labels", "samples", "seed"]
        about = {key: getattr(self.about, key) for key in keys}
        return {
            "path": str(self.path),
            "statistics": list(self.statistics),
            **about,
            "lines": self.lines,
            "passes": self.passes,
            "bytes": self.bytes,
            "warnings": self.warnings,
        }


def measure(
    model: str | os.PathLike[str],
    data: str | os.PathLike[str],
    target: str | os.PathLike[str],
    options: MeasureOptions | None = None,
    *,
    overwrite: bool = False,
    progress: Callback = silent,
) -> MeasureReport:
    """Measure a model folder on the examples of a JSONL file, into a statistics file.

    Raises InputError (BadExample names a line), MissingExtra, NotEnoughMemory, TargetExists or
    OutputError; nothing is left of a run that does not end.
    """
    options, path = options or MeasureOptions(), Path(target)
    publish.check_file(path, overwrite=overwrite, ours=is_statistics)
    data_ = records.read(Path(data), options.limit, options.seed)
    with measured_model.load(os.fspath(model), options.device) as subject:
        job = prepared(subject, data_, options)
        todo = plan(job)
        publish.check_space(path.absolute().parent, sum(4 * numel(s) for s in todo.shapes.values()))
        about = _about(job, todo)
        meter = Meter(progress, todo.passes * len(job.examples), unit="examples")
        with (
            publish.file(path, overwrite=overwrite, ours=is_statistics) as partial,
            StatisticsWriter(partial, about, todo.shapes) as writer,
        ):
            for i, labels in enumerate(todo.squares, 1):
                meter.stage("squares", _part(i, todo.squares))
                _squares(job, labels, meter, writer)
            for i, layers in enumerate(todo.grams, 1):
                meter.stage("grams", _part(i, todo.grams))
                _grams(job, layers, meter, writer)
    size = path.stat().st_size
    return MeasureReport(path, about, options.statistics, data_.lines, todo.passes, size)


def _squares(
    job: MeasureJob, labels: dict[str, list[str]], meter: Meter, writer: StatisticsWriter
) -> None:
    """One pass over the examples for the kinds that are sums of squares."""
    sums = squares(job, list(labels), lambda: meter.add("", 1))
    for y, kinds in labels.items():
        for name, sum_ in job.subject.by_name(sums[y]).items():
            for kind in kinds:
                writer.put(kind, name, _blocks(sum_, len(job.examples)))


def _grams(
    job: MeasureJob, layers: Sequence[Linear], meter: Meter, writer: StatisticsWriter
) -> None:
    """One pass over the examples for the Gram matrices of some layers."""
    subject, encoder = job.subject, job.encoder
    with torch.no_grad(), Grams(layers) as grams:
        for inputs in batches(job.examples, encoder.batch(job.options.batch)):
            encoder.run(subject.module, {name: x.to(subject.device) for name, x in inputs.items()})
            meter.add("", len(next(iter(inputs.values()))))
        for layer, gram_II in grams.results():
            for name in layer.names:
                writer.put("gram", name, _blocks(gram_II, 1))


def _blocks(values: Tensor, count: int) -> Iterator[F32]:
    flat = values.detach().reshape(-1)
    for start in range(0, flat.numel(), BLOCK):
        yield (flat[start : start + BLOCK] / count).cpu().numpy()


def _about(job: MeasureJob, todo: Plan) -> About:
    options, examples = job.options, job.examples
    labels = labels_of(job.encoder, options) if "fisher" in options.statistics else ""
    layers = [layer for group in todo.grams for layer in group]
    return About(
        name=job.subject.label,
        model=digest_of(job.subject.checkpoint, threads()),
        data=job.data.blake3,
        examples=len(examples),
        positions=sum(example.positions for example in examples),
        truncated=sum(example.truncated for example in examples),
        max_length=job.max_length,
        loss=job.encoder.loss,
        labels=labels,
        samples=options.samples if labels == "sampled" else 0,
        seed=options.seed,
        transposed=tuple(sorted(n for layer in layers if layer.transposed for n in layer.names)),
        shared=tuple(sorted(n for layer in layers if layer.shared for n in layer.names)),
    )


def _part(i: int, passes: Sequence[object]) -> str:
    return f"pass {i} of {len(passes)}" if len(passes) > 1 else ""
