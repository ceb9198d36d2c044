"""The main path of `measure`: examples, passes over them, and a file that appears whole or not."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from taskstore.errors import InputError
from taskstore.executors import threads
from taskstore.format.dtypes import numel
from taskstore.locations import publish
from taskstore.models import digest_of
from taskstore.progress import Callback, Meter, silent
from taskstore.statistics import measured_model, records
from taskstore.statistics.encoders import encoder_of
from taskstore.statistics.examples import Encoder, Example, batches
from taskstore.statistics.file import F32, About, is_statistics
from taskstore.statistics.grams import Grams, Linear
from taskstore.statistics.measured_model import Subject
from taskstore.statistics.options import MeasureOptions
from taskstore.statistics.passes import Plan, plan
from taskstore.statistics.squares import labels_of, squares
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
            f"{self.about.max_length} tokens; give a larger --max-length to keep them whole"
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
    found = records.read(Path(data), options.limit, options.seed)
    with measured_model.load(os.fspath(model), options.device) as model_:
        encoder, max_length = encoder_of(model_, options)
        examples = [encoder.encode(record, options.needs_labels) for record in found.records]
        _check_tokens(model_, examples)
        todo = plan(model_, encoder, options)
        publish.check_space(path.absolute().parent, sum(4 * numel(s) for s in todo.shapes.values()))
        about = _about(model_, encoder, examples, todo, found, max_length, options)
        meter = Meter(progress, todo.passes * len(examples))
        with (
            publish.file(path, overwrite=overwrite, ours=is_statistics) as partial,
            StatisticsWriter(partial, about, todo.shapes) as writer,
        ):
            for i, labels in enumerate(todo.squares, 1):
                meter.stage("squares", _part(i, todo.squares))
                _squares(model_, encoder, examples, labels, options, meter, writer)
            for i, layers in enumerate(todo.grams, 1):
                meter.stage("grams", _part(i, todo.grams))
                _grams(model_, encoder, examples, layers, options, meter, writer)
    size = path.stat().st_size
    return MeasureReport(path, about, options.statistics, found.lines, todo.passes, size)


def _squares(
    model: Subject,
    encoder: Encoder,
    examples: Sequence[Example],
    labels: dict[str, list[str]],
    options: MeasureOptions,
    meter: Meter,
    writer: StatisticsWriter,
) -> None:
    sums = squares(model, encoder, examples, list(labels), options, lambda: meter.add("", 1))
    for y, kinds in labels.items():
        for name, sum_ in model.by_name(sums[y]).items():
            for kind in kinds:
                writer.put(kind, name, _blocks(sum_, len(examples)))


def _grams(
    model: Subject,
    encoder: Encoder,
    examples: Sequence[Example],
    layers: Sequence[Linear],
    options: MeasureOptions,
    meter: Meter,
    writer: StatisticsWriter,
) -> None:
    with torch.no_grad(), Grams(layers) as grams:
        for inputs in batches(examples, encoder.batch(options.batch)):
            encoder.run(model.module, {name: x.to(model.device) for name, x in inputs.items()})
            meter.add("", len(next(iter(inputs.values()))))
        for layer, gram_II in grams.results():
            for name in layer.names:
                writer.put("gram", name, _blocks(gram_II, 1))


def _blocks(values: Tensor, count: int) -> Iterator[F32]:
    flat = values.detach().reshape(-1)
    for start in range(0, flat.numel(), BLOCK):
        yield (flat[start : start + BLOCK] / count).cpu().numpy()


def _about(
    model: Subject,
    encoder: Encoder,
    examples: Sequence[Example],
    todo: Plan,
    found: records.Data,
    max_length: int,
    options: MeasureOptions,
) -> About:
    labels = labels_of(encoder, options) if "fisher" in options.statistics else ""
    layers = [layer for group in todo.grams for layer in group]
    return About(
        name=model.label,
        model=digest_of(model.checkpoint, threads()),
        data=found.blake3,
        examples=len(examples),
        positions=sum(example.positions for example in examples),
        truncated=sum(example.truncated for example in examples),
        max_length=max_length,
        loss=encoder.loss,
        labels=labels,
        samples=options.samples if labels == "sampled" else 0,
        seed=options.seed,
        transposed=tuple(sorted(n for layer in layers if layer.transposed for n in layer.names)),
        shared=tuple(sorted(n for layer in layers if layer.shared for n in layer.names)),
    )


def _check_tokens(model: Subject, examples: Sequence[Example]) -> None:
    if model.kind == "image":
        return
    known = model.module.get_input_embeddings().num_embeddings
    largest = max(int(example.inputs["input_ids"].max()) for example in examples)
    if largest >= known:
        raise InputError(
            f"{model.label}: its tokenizer gives token {largest}, the embedding has {known}; "
            "they are not of one model"
        )


def _part(i: int, passes: Sequence[object]) -> str:
    return f"pass {i} of {len(passes)}" if len(passes) > 1 else ""
