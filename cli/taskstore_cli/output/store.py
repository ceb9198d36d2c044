"""Prints a store for people: sizes, tiers, tasks, scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click
from rich.markup import escape
from rich.text import Text

from taskstore_cli.output.console import Output, plain_table, print_json, size, stdout

if TYPE_CHECKING:
    from rich.table import Table
    from rich.tree import Tree

    from taskstore.packing.report import PackReport
    from taskstore.packing.search_bits import Aimed
    from taskstore.store.summary import Summary


COLUMNS = {"mask": ("lambda", "density", "masks"), "rest": ("rest",), "exact": ("exact",)}


def print_report(report: PackReport, out: Output) -> None:
    """The result of a pack; warnings go to stderr even when quiet."""
    if out.as_json:
        print_json(report.to_dict())
        return
    if not out.quiet:
        print_summary(str(report.path), report.summary)
        for note in report.notes:
            stdout().print(escape(note), soft_wrap=True)
        if report.advice:
            stdout().print(report.advice, soft_wrap=True)
    for warning in report.warnings:
        click.echo(f"{click.style('warning:', fg='yellow', bold=True)} {warning}", err=True)


def print_aimed(aimed: Aimed, out: Output) -> None:
    """What a search for bits has found, and the store."""
    if out.as_json:
        print_json(aimed.to_dict())
        return
    if not out.quiet:
        table = plain_table("task", "bits", "kept", words=["task"])
        for task, bits in aimed.bits.items():
            table.add_row(escape(task), f"{bits:g}", f"{aimed.reached[task]:.1%}")
        stdout().print(table)
    print_report(aimed.report, out)


def print_summary(path: str, summary: Summary) -> None:
    console = stdout()
    console.print(_headline(path, summary), soft_wrap=True)
    console.print(_parts(summary))
    if len(summary.tiers) > 1 or any(t.name == "rest" for t in summary.tiers):
        console.print(_tiers(summary))
    console.print(fidelity_table(summary))
    console.print(_tasks(summary))
    if any(task.parent for task in summary.tasks):
        console.print(_lineage(summary))
    for table in _evaluations(summary):
        console.print(table)
    for line in (*_private(summary), *_left_out(summary)):
        console.print(line, soft_wrap=True)
    console.print(_provenance(summary), soft_wrap=True)


def _headline(path: str, s: Summary) -> str:
    counted = "base and fine-tunes" if s.base_carried else "fine-tunes, base not counted"
    word = "smaller" if s.is_smaller else "the originals over the store, so it is [red]larger[/]"
    alone = "" if s.ratio_without_base > 1 else ", so it is [red]larger[/] than they came in"
    return (
        f"[bold]{escape(path)}[/]: {size(s.store_bytes)} for {size(s.original_bytes)} of {counted}"
        f", [bold]{s.ratio:.2f}x[/] {word} ({s.ratio_without_base:.2f}x without the base{alone}); "
        f"unpacked {size(s.unpacked_bytes)}"
    )


def _parts(s: Summary) -> Table:
    table = plain_table("part", "size", "bits/parameter", words=["part"])
    codings = ", ".join(f"{n} {codec}" for codec, n in sorted(s.codings.items()))
    rows = {
        "base" if s.base_carried else "base (referenced)": s.base_bytes,
        f"multi-task model ({codings})": s.multitask_bytes,
        f"masks of {len(s.tasks)} tasks": s.masks_bytes,
        f"rest of {len(s.tasks)} tasks, quantised": s.rest_bytes,
        "exact tensors": s.exact_bytes,
        "private tensors": s.private_bytes,
        "configs, tokenizers": s.assets_bytes,
        "manifest, card": s.other_bytes,
    }
    unused = ("multi-task", "masks", "rest", "exact")
    rows = {part: count for part, count in rows.items() if count or not part.startswith(unused)}
    for part, count in rows.items():
        table.add_row(part, size(count), f"{8 * count / max(1, s.parameters):.2f}")
    table.add_row("all", size(s.store_bytes), f"{s.bits_per_parameter:.2f}", style="bold")
    table.add_row(
        "per task, base not counted", "", f"{s.bits_per_parameter_and_task:.2f}", style="bold"
    )
    return table


def _tiers(s: Summary) -> Table:
    columns = ("tier", "size", "its own bits/parameter and task", "serving, beside the live model")
    table = plain_table(*columns, words=["tier"])
    for tier in s.tiers:
        bits = f"{tier.own_bits_per_parameter_and_task:.2f}"
        table.add_row(tier.name, size(tier.bytes), bits, f"about {size(tier.serving_bytes)}")
    return table


def fidelity_table(s: Summary) -> Table:
    """Make a table of what is kept of each fine-tune, a line per tier, the best first.

    Bits are those of all files of the task, so they stand beside its best tier.
    """
    columns = ("task", "tier", "bits/parameter", "fidelity", "score")
    table = plain_table(*columns, words=["task", "tier", "fidelity"])
    for t in s.tasks:
        best = t.tiers[-1] if t.tiers else "-"
        for tier, found in [(best, t.fidelity), *reversed(t.lower_fidelity.items())]:
            first = (escape(t.name), tier, f"{t.bits_per_parameter:.2f}")
            colour = "" if found.is_safe else "yellow"
            table.add_row(
                *(first if tier == best else ("", tier, "")),
                Text(found.words, colour),
                escape(t.scored(tier)),
            )
    return table


def _tasks(s: Summary) -> Table:
    tiers = [tier.name for tier in s.tiers]
    own = [c for tier in tiers for c in COLUMNS[tier]]
    table = plain_table("task", *own, "private", "original", words=["task"])
    for t in s.tasks:
        cells = {
            "mask": (t.threshold, f"{t.density:.3f}", size(t.masks_bytes)),
            "rest": (size(t.rest_bytes),),
            "exact": (size(t.exact_bytes),),
        }
        table.add_row(
            escape(t.name),
            *(cell for tier in tiers for cell in cells[tier]),
            size(t.private_bytes),
            size(t.original_bytes),
        )
    return table


def _lineage(s: Summary) -> Tree:
    """Draw which task is coded against which."""
    from rich.tree import Tree

    nodes: dict[str | None, Tree] = {None: Tree(escape(s.base_name))}
    waiting = list(s.tasks)
    while waiting:
        for task in [task for task in waiting if task.parent in nodes]:
            said = f"{task.name}  {task.bits_per_parameter:.2f} bits/parameter"
            nodes[task.name] = nodes[task.parent].add(escape(said))
            waiting.remove(task)
    return nodes[None]


def _evaluations(s: Summary) -> list[Table]:
    """One table per evaluation that was recorded."""
    labels = sorted({label for t in s.tasks for label in t.scores})
    return [
        score_table({t.name: t.scores[label] for t in s.tasks if label in t.scores}, title=label)
        for label in labels
    ]


def score_table(scores: Mapping[str, Mapping[str, Any]], title: str | None = None) -> Table:
    """Task -> members of a manifest's score; tiers below the best have their own columns."""
    lower = list(dict.fromkeys(t for score in scores.values() for t in score.get("lower") or ()))
    kept = [s["rebuilt"] / s["original"] for s in scores.values() if s.get("original")]
    count = f"{len(kept)} task{'' if len(kept) == 1 else 's'}, their best tiers"
    mean = (
        f"kept {sum(kept) / len(kept):.1%} on average of {count}, {min(kept):.1%} worst"
        if kept
        else None
    )
    table = plain_table(
        *("task", "base", "original", *lower, "rebuilt", "kept", "n"),
        words=["task"],
        title=title and escape(title),
        title_justify="left",
        caption=mean,
        caption_justify="left",
    )
    for task, score in scores.items():
        below = score.get("lower") or {}
        found = [score.get("base"), score.get("original"), *map(below.get, lower), score["rebuilt"]]
        share = f"{score['rebuilt'] / score['original']:.1%}" if score.get("original") else ""
        table.add_row(
            escape(task),
            *("" if x is None else f"{x:.4g}" for x in found),
            share,
            str(score.get("n", "")),
        )
    return table


def _private(s: Summary) -> list[str]:
    lines = []
    for t in s.tasks:
        for p in t.private[:8]:
            lines.append(f"private: {escape(f'{t.name} {p.name} {p.shape} {p.dtype}: {p.reason}')}")
        if len(t.private) > 8:
            lines.append(f"private: {escape(t.name)} and {len(t.private) - 8} more; see --json")
    return lines


def _left_out(s: Summary) -> list[str]:
    """What an archive is not: files of the folders that it does not have."""
    return [escape(f"left out: {t.name} {path}") for t in s.tasks for path in t.left_out]


def _provenance(s: Summary) -> str:
    options = "".join(f", {name} {value:g}" for name, value in s.options.items())
    exact = all("exact" in t.tiers for t in s.tasks)
    merged = [f"merged by {s.method}{options}"] if s.method else []
    made = "; ".join([*merged, *(["fine-tunes bit for bit"] if exact else [])])
    source = f" from {s.base_source}" if s.base_source else ""
    revision = f" at {s.base_revision}" if s.base_revision else ""
    return escape(
        f"base {s.base_name}{source}{revision}; {s.parameters:,} parameters in "
        f"{s.tensors} tensors; {made}{'; ' if made else ''}written by {s.writer}"
    )
