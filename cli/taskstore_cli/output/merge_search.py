"""Prints a search for the best merge for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click
from rich.markup import escape

from taskstore_cli.output.console import Output, number, plain_table, show, stdout
from taskstore_cli.output.merge import print_merged

if TYPE_CHECKING:
    from taskstore.merging.search.auto import Auto
    from taskstore.merging.search.frank_wolfe import Walked
    from taskstore.merging.search.front import Front, OnFront
    from taskstore.merging.search.greedy_soup import Soup
    from taskstore.merging.search.outcome import Points, Searched
    from taskstore.merging.search.scoring import Scores

COLUMNS = 8  # tasks that have their own columns; of more only the mean is shown


def print_searched(found: Searched | OnFront, out: Output) -> None:
    """What was scored, the chosen one bold and named; then the merge."""
    from taskstore.merging.search.front import OnFront

    if isinstance(found, OnFront):
        points: Front | Points = found.front
        title, table = "points of the Pareto front", _front(found.front)
    else:
        points = found.points
        title, table = "points that were scored", _points(found.points)
    if not out.quiet:
        show(stdout(), title, table, first=True)
        if points.seed is not None:
            click.echo(f"drawn by {points.drawn_by}, seed {points.seed}")
        if points.dropped:
            click.echo(f"dropped after a part of the evaluation: {len(points.dropped)}")
        click.echo()
    _print_failed(points.failed)
    print_merged(found.report, out)


def _print_failed(failed: Mapping[str, str]) -> None:
    for what, why in failed.items():
        click.echo(f"failed, counted as worst: {what}: {why}", err=True)


def _points(points: Points) -> Any:
    tasks = _tasks(points.scores[0])
    table = plain_table(*map(escape, (*points.axes, *tasks, points.scored, "")))
    for i, (values, scores) in enumerate(zip(points.values, points.scores, strict=True)):
        chosen = i == points.best and len(points.values) > 1
        cells = [f"{value:g}" for value in values] + _cells(scores, tasks)
        table.add_row(*cells, "chosen" if chosen else "", style="bold" if chosen else None)
    return table


def _front(front: Front) -> Any:
    table = plain_table("point", *map(escape, (*front.names, *front.axes)), "")
    for place, i in enumerate(front.front, 1):
        chosen = i == front.best
        cells = [number(scores.mean) for scores in front.scores[i]]
        cells += [f"{value:g}" for value in front.values[i]]
        word, style = ("chosen", "bold") if chosen else ("", None)
        table.add_row(str(place), *cells, word, style=style)
    return table


def print_auto(found: Auto, out: Output) -> None:
    """The methods of the short list at their best, the search over the best; then the merge."""
    table = plain_table("method", "alpha", "score", "why", "", words=["method", "why", ""])
    for c in found.candidates:
        alpha = "" if c.alpha is None else f"{c.alpha:g}"
        score = number(c.scores.mean if c.scores else None)
        style = "bold" if c.chosen else None
        table.add_row(c.method, alpha, score, c.why, "searched" if c.chosen else "", style=style)
    if not out.quiet:
        click.echo(str(found.facts))
        show(stdout(), "methods that were tried", table)
        if found.points:
            show(stdout(), "points that were scored of the best", _points(found.points))
            click.echo(f"drawn by {found.points.drawn_by}, seed {found.points.seed}")
        click.echo()
    _print_failed({**found.failed, **(found.points.failed if found.points else {})})
    print_merged(found.report, out)


def print_walked(found: Walked, out: Output) -> None:
    """How the loss fell; then the merge that the steps began with, moved."""
    if not out.quiet:
        losses = " ".join(f"{loss:.4g}" for loss in found.losses)
        click.echo(f"mean loss before each Frank-Wolfe step: {losses}")
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
    _print_failed(soup.failed)
    print_merged(soup.report, out)


def _tasks(scores: Scores) -> list[str]:
    return list(scores.named) if 1 < len(scores.named) <= COLUMNS else []


def _cells(scores: Scores, tasks: list[str]) -> list[str]:
    return [number(score) for score in (*(scores.tasks[task] for task in tasks), scores.mean)]
