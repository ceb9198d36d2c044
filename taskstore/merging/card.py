"""The model card (README.md) of a merged model, which says how to make it again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from taskstore.merging.methods import MERGES, split
from taskstore.models.family import Family
from taskstore.store.card import cell, yaml
from taskstore.version import __version__

if TYPE_CHECKING:
    from taskstore.merging.report import MergeReport

_TEMPLATE = """---
library_name: transformers
tags:
- merge
- taskstore
{base_model}---

# {models} of {base}, merged

Merged by taskstore {version} with `{method}`{options}, alpha {alpha:g}:

    {formula}

({paper})

| model | weight |
|---|---|
{rows}

{tensors} tensors are merged.
{notes}"""


def render(report: MergeReport, family: Family) -> str:
    """Markdown, ending in a newline; the same text for the same merge."""
    parts = [MERGES[part].INFO for part in split(report.method).names]
    hubs = [m.source for m in (family.base, *family.tasks) if m.revision and m.source]
    listed = "\n".join(f"- {yaml(hub)}" for hub in hubs)
    options = ", ".join(f"{name} {value:g}" for name, value in report.options.items())
    count = len(report.models)
    notes = "".join(f"- {cell(what)}: {cell(why)}\n" for what, why in report.notes.items())
    return _TEMPLATE.format(
        base_model=f"base_model:\n{listed}\nbase_model_relation: merge\n" if hubs else "",
        models=f"{count} fine-tune{'' if count == 1 else 's'}",
        base=cell(report.base),
        version=__version__,
        method=report.method,
        options=f" ({options})" if options else "",
        alpha=report.alpha,
        formula="\n    ".join(info.formula for info in parts),
        paper="; ".join(info.paper for info in parts),
        rows="\n".join(f"| {cell(name)} | {w:g} |" for name, w in report.weights.items()),
        tensors=report.tensors,
        notes=f"Not merged like the others:\n\n{notes}" if notes else "",
    )
