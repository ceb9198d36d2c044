"""The README.md of a store: a Hugging Face model card, made from the manifest alone."""

from __future__ import annotations

from taskstore import summary
from taskstore.format.manifest import Manifest

_TEMPLATE = """---
library_name: taskstore
tags:
- taskstore
- model-merging
- tall-masks
{base_model}---

# {name}: {count} fine-tunes of one base

One base model and {count} full fine-tunes of it, packed by taskstore with \
[TALL-masks](https://arxiv.org/abs/2405.07813): {parts} and one bit mask per task.

| task | lambda | density | mask | private tensors |
|---|---|---|---|---|
{rows}

| part | bytes |
|---|---|
{sizes}

Rebuild one model as a Hugging Face folder, or all of them:

    taskstore unpack FAMILY {example} -o {example}
    taskstore unpack FAMILY --all -o models
    taskstore verify FAMILY --deep

A rebuilt model is an approximation of its fine-tune: where(mask, base + merged vector, base), \
merged by `{method}`.
"""


def render(manifest: Manifest) -> str:
    """Markdown, ending in a newline; the same text for the same manifest."""
    figures = summary.of(manifest, 0)
    carried = manifest.base.carried
    hub = manifest.base.source if manifest.base.revision else None
    rows = (
        f"| {_cell(t.name)} | {t.lam:g} | {t.density:.3f} | {t.masks_bytes:,} B "
        f"| {', '.join(_cell(p.name) for p in t.private) or '-'} |"
        for t in figures.tasks
    )
    sizes = {
        "base" if carried else "base (only referenced)": figures.base_bytes,
        "multi-task model": figures.multitask_bytes,
        "masks": figures.masks_bytes,
        "private tensors": figures.private_bytes,
        "configs and tokenizers": figures.assets_bytes,
    }
    return _TEMPLATE.format(
        base_model=f"base_model:\n- {hub}\n" if hub else "",
        name=_cell(manifest.base.name),
        count=len(figures.tasks),
        parts="the base and the multi-task model" if carried else "the multi-task model",
        rows="\n".join(rows),
        sizes="\n".join(f"| {part} | {size:,} |" for part, size in sizes.items()),
        example=_cell(figures.tasks[0].name),
        method=manifest.merge.method,
    )


def _cell(text: str) -> str:
    """A name that cannot break out of a table or become markup."""
    return "".join(f"\\{c}" if c in "|`*[]<>#" else c for c in text)
