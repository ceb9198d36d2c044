"""Runs `merge` with an evaluator: searches, writes the best, prints what was found."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from taskstore_cli.arguments.evaluator import say
from taskstore_cli.arguments.search import Search
from taskstore_cli.output.console import Output, print_json

if TYPE_CHECKING:
    from taskstore.merging import MergeOptions
    from taskstore.merging.search.grids import Grids
    from taskstore.merging.search.origins import Origin
    from taskstore.merging.search.scoring import Scorer


def run(
    origin: Origin,
    target: Path,
    options: MergeOptions,
    grids: Grids,
    wanted: Search,
    procedure: str,
    out: Output,
) -> None:
    """Search, write the best, print what was found."""
    from taskstore.merging.search import cma_search, plot
    from taskstore.merging.search.greedy_soup import Soup, greedy_soup
    from taskstore.merging.search.grid_search import search
    from taskstore.merging.search.outcome import Searched
    from taskstore.merging.search.space import space
    from taskstore_cli.output.merge import print_searched, print_soup

    with wanted.journal_beside(target, "merge") as journal:
        scorer = _scorer(wanted, journal, origin, silent=out.silent)
        with out.progress() as progress:
            if procedure:
                found: Searched | Soup = greedy_soup(origin, target, options, scorer, progress)
            elif wanted.search == "cma":
                box = space(options, grids, origin.names, wanted.layers)
                plan = cma_search.Plan(wanted.budget, wanted.seed)
                found = cma_search.search(origin, target, box, scorer, plan, progress)
            else:
                found = search(origin, target, options, grids, scorer, progress)
        if wanted.plot and isinstance(found, Searched):
            plot.write(wanted.plot, found, overwrite=options.overwrite)
    if out.as_json:
        print_json(found.to_dict())
    elif isinstance(found, Searched):
        print_searched(found, out)
    else:
        print_soup(found, out)


def _scorer(wanted: Search, journal: Path, origin: Origin, *, silent: bool) -> Scorer:
    from taskstore.evaluation.journal import Journal
    from taskstore.merging.search.scoring import Scorer

    template = wanted.template or ""
    return Scorer(
        wanted.command(),
        Journal(journal),
        label=template if wanted.key == "score" else f"{template} --key {wanted.key}",
        tasks=tuple(origin.names) if "{task}" in template else ("",),
        minimise=wanted.minimise,
        scratch=wanted.scratch,
        say=say(silent),
    )
