"""Prints a store for people: sizes, tiers, tasks, scores."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click
from rich.markup import escape
from rich.text import Text

from taskstore_cli.output.console import (
    Output,
    counted,
    paged,
    plain_table,
    print_json,
    say,
    show,
    size,
    stdout,
)
from taskstore_cli.output.options import in_options

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.tree import Tree

    from taskstore.packing.report import PackReport
    from taskstore.packing.search_bits import Aimed
    from taskstore.store.summary import Summary


KEPT = "what is kept of each task"
COLUMNS = {"mask": ("lambda", "density", "masks"), "rest": ("rest",), "exact": ("exact",)}


def print_report(report: PackReport, out: Output) -> None:
    """The result of a pack: how large it is and what it keeps; warnings even when quiet."""
    if out.as_json:
        print_json(report.to_dict())
        return
    if not out.quiet:
        advice = report.advice.split("; ") if report.advice else []
        print_made(str(report.path), report.summary, [*report.notes, *advice])
    for warning in report.warnings:
        click.echo(
            f"{click.style('warning:', fg='yellow', bold=True)} {in_options(warning)}", err=True
        )


def print_made(path: str, summary: Summary, notes: Sequence[str] = ()) -> None:
    """A store that was written: how large it is, what it keeps, and where more is said."""
    console = stdout()
    say(console, _headline(path, summary))
    show(console, KEPT, fidelity_table(summary))
    console.print()
    for note in notes:
        say(console, escape(in_options(note)))
    say(console, f"sizes by part and by task: taskstore info {escape(shlex.quote(path))}")


def print_aimed(aimed: Aimed, out: Output) -> None:
    """What a search for bits has found, and the store."""
    if out.as_json:
        print_json(aimed.to_dict())
        return
    if not out.quiet:
        table = plain_table("task", "bits", "kept", words=["task"])
        for task, bits in aimed.bits.items():
            table.add_row(escape(task), f"{bits:g}", f"{aimed.reached[task]:.1%}")
        show(stdout(), "bits that were chosen", table, first=True)
        click.echo()
    print_report(aimed.report, out)


def print_summary(path: str, summary: Summary) -> None:
    """All that a manifest says; through the pager where it is higher than the terminal."""
    with paged() as console:
        say(console, _headline(path, summary))
        show(console, KEPT, fidelity_table(summary))
        show(console, "sizes by part", _parts(summary))
        if len(summary.tiers) > 1 or any(t.name == "rest" for t in summary.tiers):
            show(console, "sizes by tier", _tiers(summary))
        show(console, "sizes by task", _tasks(summary))
        if any(task.parent for task in summary.tasks):
            show(console, "what each task is coded against", _lineage(summary))
        for label in sorted({label for t in summary.tasks for label in t.scores}):
            show_scores(
                console,
                {t.name: t.scores[label] for t in summary.tasks if label in t.scores},
                f"scores: {label}",
            )
        if private := _private(summary):
            show(console, "tensors that only a task has", *map(escape, private))
        if left_out := [f"{t.name} {path}" for t in summary.tasks for path in t.left_out]:
            show(console, "left out when it was packed", *map(escape, left_out))
        console.print()
        say(console, _provenance(summary))


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
    masked, quantised = (
        sum(t.masks_bytes > 0 for t in s.tasks),
        sum(t.rest_bytes > 0 for t in s.tasks),
    )
    codings = ", ".join(f"{n} {codec}" for codec, n in sorted(s.codings.items()))
    rows = {
        "base" if s.base_carried else "base (referenced)": s.base_bytes,
        f"multi-task model ({codings})": s.multitask_bytes,
        f"masks of {counted(masked, 'task')}": s.masks_bytes,
        f"rest of {counted(quantised, 'task')}, quantised": s.rest_bytes,
        "exact tensors": s.exact_bytes,
        "private tensors": s.private_bytes,
        "configs, tokenizers": s.assets_bytes,
        "manifest, card": s.other_bytes,
    }
    unused = ("multi-task", "masks", "rest", "exact", "private")
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

    Bits are per parameter, and those of all files of the task, so they stand beside its best tier.
    """
    columns = ("task", "tier", "bits", "fidelity", "error", "projection", "score")
    table = plain_table(*columns, words=["task", "tier", "fidelity"])
    for t in s.tasks:
        best = t.tiers[-1] if t.tiers else "-"
        for tier, found in [(best, t.fidelity), *reversed(t.lower_fidelity.items())]:
            first = (escape(t.name), tier, f"{t.bits_per_parameter:.2f}")
            colour = "" if found.is_safe else "yellow"
            table.add_row(
                *(first if tier == best else ("", tier, "")),
                Text(found.words.partition(":")[0], colour),
                found.percent,
                "" if found.projection is None else f"{found.projection:.2f}",
                escape(t.scored(tier)),
            )
    return table


def _tasks(s: Summary) -> Table:
    tiers = [tier.name for tier in s.tiers]
    own = [c for tier in tiers for c in COLUMNS[tier]]
    private = any(t.private_bytes for t in s.tasks)
    columns = (*own, *(["private"] if private else []), "original")
    table = plain_table("task", *columns, words=["task"])
    for t in s.tasks:
        cells = {
            "mask": (t.threshold, f"{t.density:.3f}", size(t.masks_bytes)),
            "rest": (size(t.rest_bytes),),
            "exact": (size(t.exact_bytes),),
        }
        table.add_row(
            escape(t.name),
            *(cell for tier in tiers for cell in cells[tier]),
            *([size(t.private_bytes)] if private else []),
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


def show_scores(
    console: Console, scores: Mapping[str, Mapping[str, Any]], title: str, *, first: bool = False
) -> None:
    """Task -> members of a manifest's score: a table, and below it what is kept on average."""
    kept = [s["rebuilt"] / s["original"] for s in scores.values() if s.get("original")]
    below = []
    if len(kept) > 1:
        mean = f"{sum(kept) / len(kept):.1%} on average of {counted(len(kept), 'task')}"
        below = [f"kept {mean}, {min(kept):.1%} worst, best tiers"]
    show(console, title, score_table(scores), *below, first=first)


def score_table(scores: Mapping[str, Mapping[str, Any]]) -> Table:
    """Tiers below the best have their own columns."""
    lower = list(dict.fromkeys(t for score in scores.values() for t in score.get("lower") or ()))
    table = plain_table("task", "base", "original", *lower, "rebuilt", "kept", "n", words=["task"])
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
        lines += [f"{t.name} {p.name} {p.shape} {p.dtype}: {p.reason}" for p in t.private[:8]]
        if len(t.private) > 8:
            lines.append(f"{t.name} and {len(t.private) - 8} more; see --json")
    return lines


def _provenance(s: Summary) -> str:
    options = "".join(f", {name} {value:g}" for name, value in s.options.items())
    exact = all("exact" in t.tiers for t in s.tasks)
    merged = [f"merged by {s.method}{options}"] if s.method else []
    made = "; ".join([*merged, *(["fine-tunes bit for bit"] if exact else [])])
    source = f" from {s.base_source}" if s.base_source else ""
    revision = f" at {s.base_revision}" if s.base_revision else ""
    return escape(
        f"base {s.base_name}{source}{revision}; {counted(s.parameters, 'parameter')} in "
        f"{counted(s.tensors, 'tensor')}; {made}{'; ' if made else ''}written by {s.writer}"
    )
