"""Write model cards (README.md), of a store and of a model out of it, from the manifest alone."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import msgspec

from taskstore.format import manifest_file
from taskstore.format.digests import file_digest
from taskstore.format.fidelity import EXPLAINED, listed, of_task
from taskstore.format.manifest import Base, Manifest, Task, checksum
from taskstore.format.names import CARD, plain
from taskstore.format.rules.since import VERSION_OF_CHANGES
from taskstore.locations import ownership
from taskstore.store import summary
from taskstore.store.summary import Summary

_TEMPLATE = """---
library_name: taskstore
tags:
- taskstore
- model-merging
- tall-masks
{base_model}---

# {name}: {tasks} of one base

One base model and {full} of it, packed by taskstore {how}

{rows}
{explained}{scores}
| part | bytes |
|---|---|
{sizes}

Rebuild one model as a Hugging Face folder, or all of them:

    taskstore unpack FAMILY {example} -o {example}
    taskstore unpack FAMILY --all -o models
    taskstore verify FAMILY --deep

{fidelity}
"""
_MARKUP = re.compile(r"[\\|`*\[\]<>#~&]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|(?<=www)\.|:(?=//)|@")
COLUMNS = {"mask": ("lambda", "density", "mask"), "rest": ("rest",), "exact": ("exact",)}
_MASKED = (
    "with [TALL-masks](https://arxiv.org/abs/2405.07813): {parts} and one bit mask {more}per task."
)
_REST = """with one quantised vector per task, a few bits per weight."""
_EXACT = """as an archive: every fine-tune comes back bit for bit."""
_APPROXIMATE = """A rebuilt model is an approximation of its fine-tune: {formula}."""
_SELECTED = "where(mask, base + merged vector, base), merged by `{method}`"
_EXPLAINED = f"\n{EXPLAINED}\n"
_CHECKED = """Every tensor is compared with its recorded checksum when it is rebuilt."""


def render(manifest: Manifest) -> str:
    """Return Markdown that ends in a newline; the same text for the same manifest."""
    figures = summary.of(manifest, 0)
    carried = manifest.base.carried
    tiers = [tier.name for tier in figures.tiers]
    exact, count = "exact" in tiers, len(figures.tasks)
    plural = "" if count == 1 else "s"
    parts = "the base and the multi-task model" if carried else "the multi-task model"
    more = "and one quantised vector " if "rest" in tiers else ""
    sizes = {
        "base" if carried else "base (only referenced)": figures.base_bytes,
        **({"multi-task model": figures.multitask_bytes} if "mask" in tiers else {}),
        **({"masks": figures.masks_bytes} if "mask" in tiers else {}),
        **({"rest, quantised": figures.rest_bytes} if "rest" in tiers else {}),
        **({"exact tensors": figures.exact_bytes} if exact else {}),
        "private tensors": figures.private_bytes,
        "configs and tokenizers": figures.assets_bytes,
    }
    return _TEMPLATE.format(
        base_model=_sources(manifest, tiers),
        name=cell(manifest.base.name),
        tasks=f"{count} fine-tune{plural}",
        full=f"{count} full fine-tune{plural}",
        how=_EXACT
        if exact
        else _MASKED.format(parts=parts, more=more)
        if "mask" in tiers
        else _REST,
        rows="\n".join(_rows(figures, tiers)),
        explained="" if all(t.fidelity.kind == "exact" for t in figures.tasks) else _EXPLAINED,
        scores=_scores(figures),
        sizes="\n".join(f"| {part} | {size:,} |" for part, size in sizes.items()),
        example=shlex.quote(figures.tasks[0].name),
        fidelity=_CHECKED + _left_out(figures)
        if exact
        else _approximate(manifest.merge.method, tiers),
    )


def _sources(manifest: Manifest, tiers: list[str]) -> str:
    """Name the models that came from a hub, and what the store is to them, for the card's head."""
    models: list[Base | Task] = [manifest.base, *manifest.tasks.values()]
    found = dict.fromkeys(m.source for m in models if m.revision and m.source and _is_id(m.source))
    if not found:
        return ""
    relation = "merge" if "mask" in tiers else "quantized" if "rest" in tiers else "finetune"
    names = "".join(f"- {yaml(name)}\n" for name in found)
    return f"base_model:\n{names}base_model_relation: {relation}\n"


def _is_id(source: str) -> bool:
    return "://" not in source


def _left_out(figures: Summary) -> str:
    """Name what an archive lacks of the originals' folders."""
    lines = [f"- {cell(t.name)}: {cell(path)}" for t in figures.tasks for path in t.left_out]
    return "\nLeft out when it was packed:\n\n" + "\n".join(lines) if lines else ""


def _approximate(method: str, tiers: list[str]) -> str:
    selected = _SELECTED.format(method=method) if "mask" in tiers else "the base"
    rest = f"{',' if 'mask' in tiers else ''} plus a quantised vector" if "rest" in tiers else ""
    return _APPROXIMATE.format(formula=selected + rest)


def _rows(figures: Summary, tiers: list[str]) -> list[str]:
    """Make a table with a line per task."""
    head = ["task", "fidelity", "score", *(column for tier in tiers for column in COLUMNS[tier])]
    lines = [[*head, "private tensors"], ["---"] * (len(head) + 1)]
    for t in figures.tasks:
        cells = {
            "mask": (t.threshold, f"{t.density:.3f}", f"{t.masks_bytes:,} B"),
            "rest": (f"{t.rest_bytes:,} B",),
            "exact": (f"{t.exact_bytes:,} B",),
        }
        own = [cell for tier in tiers for cell in cells[tier]]
        kept = listed(t.fidelity, t.lower_fidelity)
        lines.append(
            [
                cell(t.name),
                kept,
                cell(t.scored()),
                *own,
                ", ".join(cell(p.name) for p in t.private) or "-",
            ]
        )
    return [
        f"|{'|'.join(line)}|" if line[0] == "---" else f"| {' | '.join(line)} |" for line in lines
    ]


def _scores(figures: Summary) -> str:
    """Make a table for each recorded evaluation."""
    text = ""
    for label in sorted({label for t in figures.tasks for label in t.scores}):
        scores = {t.name: t.scores[label] for t in figures.tasks if label in t.scores}
        lower = dict.fromkeys(tier for s in scores.values() for tier in s.get("lower") or ())
        columns = ("task", "base", "original", *lower, "rebuilt", "n")
        text += f"\n{cell(label)}:\n\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}\n"
        for task, score in scores.items():
            below = score.get("lower") or {}
            found = (score.get("base"), score.get("original"), *map(below.get, lower))
            cells = ("-" if x is None else f"{x:.4g}" for x in (*found, score["rebuilt"]))
            text += f"| {cell(task)} | {' | '.join(cells)} | {score.get('n', '-')} |\n"
    return text


def cell(text: str) -> str:
    """Escape a name, so that it cannot break out of a table or become markup."""
    return _MARKUP.sub(r"\\\g<0>", plain(text))


def yaml(text: str) -> str:
    """Quote a hub id for the head of a card, unless it is plain."""
    return text if re.fullmatch(r"[A-Za-z0-9][\w./-]*", text, re.ASCII) else json.dumps(text)


def code(text: str) -> str:
    """Make a code span of a command, whatever stands in it; on one line."""
    line = " ".join(text.split())
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    pad = " " if len(fence) > 1 else ""
    return f"{fence}{pad}{line}{pad}{fence}"


_REBUILT = """
# {name}

Rebuilt by taskstore; this is not the fine-tune itself, but an approximation of it.

| | |
|---|---|
| task | {name} |
| fidelity | {fidelity} |
| score | {score} |
| tier | {tier} |
| base | {base} |
| store | checksum {checksum} (taskstore.json) |

{explained}
"""


def write(manifest: Manifest, task: str | None, tier: str | None, folder: Path) -> None:
    """Say in the card of a model's folder how near it is to its fine-tune.

    A card that is there stays below that. What is exact gets none: it comes back as it was.
    """
    if task is None or of_task(manifest.tasks[task], tier).kind == "exact":
        return
    path = folder / CARD
    head, rest = _front_matter(path.read_bytes() if path.exists() else b"")
    if not head:
        base = json.dumps(plain(_base_of(manifest)), ensure_ascii=False)
        head = f"---\nbase_model: {base}\ntags:\n- taskstore\n---\n".encode()
    path.write_bytes(head + _note(manifest, task, tier).encode() + (b"\n" + rest if rest else b""))


def _base_of(manifest: Manifest) -> str:
    """Return the base's hub id, or its name."""
    base = manifest.base
    return base.source if base.revision and base.source else base.name


def _note(manifest: Manifest, task: str, tier: str | None) -> str:
    (found,) = (t for t in summary.of(manifest, 0).tasks if t.name == task)
    revision = f" at {manifest.base.revision}" if manifest.base.revision else ""
    return _REBUILT.format(
        name=cell(task),
        fidelity=of_task(manifest.tasks[task], tier).words,
        score=cell(found.scored(tier)),
        tier=tier or found.tiers[-1],
        base=cell(_base_of(manifest) + revision),
        checksum=checksum(manifest),
        explained=EXPLAINED,
    )


def _front_matter(raw: bytes) -> tuple[bytes, bytes]:
    """Cut a card after its front matter, of which there may be none."""
    found = re.match(rb"---[ \t]*\r?\n.*?^---[ \t]*(?:\r?\n|\Z)", raw, re.DOTALL | re.MULTILINE)
    end = found.end() if found else 0
    return raw[:end], raw[end:]


def seal(root: Path, manifest: Manifest) -> Manifest:
    """Write the card and the manifest, which is returned.

    The card is listed among the files; in a store that may change (version 5) it is sealed instead.
    """
    text, files = render(manifest), dict(manifest.files)
    if manifest.version >= VERSION_OF_CHANGES:
        files.pop(CARD, None)
        (root / CARD).write_text(ownership.sealed(text, ownership.HTML), encoding="utf-8")
    else:
        (root / CARD).write_text(text, encoding="utf-8")
        files[CARD] = file_digest(root / CARD)
    done = msgspec.structs.replace(manifest, files=dict(sorted(files.items())))
    manifest_file.write(root, done)
    return done
