"""Prints a merge, and a search for the best one, for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from rich.markup import escape

from taskstore.locations.remote.mirror import address_of
from taskstore_cli.output.console import (
    Output,
    counted,
    number,
    plain_table,
    print_json,
    show,
    size,
    stdout,
)
from taskstore_cli.output.options import in_options

if TYPE_CHECKING:
    from taskstore.merging import MergeReport
    from taskstore.merging.search.greedy_soup import Soup
    from taskstore.merging.search.outcome import Searched
    from taskstore.merging.search.scoring import Scores

COLUMNS = 8  # tasks that have their own columns; of more only the mean is shown


def print_merged(report: MergeReport, out: Output) -> None:
    """One line, and what was not merged like the rest, on stderr even when quiet."""
    if out.as_json:
        print_json(report.to_dict())
        return
    if not out.quiet:
        options = "".join(f", {name} {value:g}" for name, value in report.options.items())
        of = f"{counted(len(report.models), 'fine-tune')} of {report.base}"
        holds = f"{counted(report.tensors, 'tensor')}, {counted(report.parameters, 'parameter')}"
        click.echo(
            f"{address_of(report.path) or report.path}: {of} merged by {report.method}{options}, "
            f"alpha {report.alpha:g}; "
            f"{holds}, {size(report.bytes)}"
        )
    for what, why in report.notes.items():
        click.echo(
            f"{click.style('note:', fg='yellow', bold=True)} {what}: {in_options(why)}", err=True
        )


def print_searched(found: Searched, out: Output) -> None:
    """Every point with its scores, the chosen one bold and named; then the merge."""
    points = found.points
    tasks = _tasks(points.scores[0])
    table = plain_table(*map(escape, (*points.axes, *tasks, points.scored, "")))
    for i, (values, scores) in enumerate(zip(points.values, points.scores, strict=True)):
        chosen = i == points.best and len(points.values) > 1
        cells = [f"{value:g}" for value in values] + _cells(scores, tasks)
        table.add_row(*cells, "chosen" if chosen else "", style="bold" if chosen else None)
    if not out.quiet:
        show(stdout(), "points that were scored", table, first=True)
        if points.seed is not None:
            click.echo(f"drawn by CMA-ES, seed {points.seed}")
        click.echo()
    for what, why in points.failed.items():
        click.echo(f"failed, counted as worst: {what}: {why}", err=True)
    print_merged(found.report, out)


def print_soup(soup: Soup, out: Output) -> None:
    """The fine-tunes in the order in which they were tried; then the merge."""
    tasks = map(escape, _tasks(soup.ingredients[0].alone))
    columns = ("fine-tune", *tasks, "alone", "soup with it", "")
    table = plain_table(*columns, words=["fine-tune", ""])
    for i in soup.ingredients:
        tried = number(i.with_it.mean if i.with_it else None)
        cells = _cells(i.alone, _tasks(i.alone))
        kept = "kept" if i.kept else "left out"
        table.add_row(escape(i.model), *cells, tried, kept, style="bold" if i.kept else None)
    if not out.quiet:
        show(stdout(), "fine-tunes in the order in which they were tried", table, first=True)
        click.echo()
    print_merged(soup.report, out)


def _tasks(scores: Scores) -> list[str]:
    return list(scores.named) if 1 < len(scores.named) <= COLUMNS else []


def _cells(scores: Scores, tasks: list[str]) -> list[str]:
    return [number(score) for score in (*(scores.tasks[task] for task in tasks), scores.mean)]
