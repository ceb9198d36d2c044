"""Runs `merge` with an evaluator: searches, writes the best, prints what was found."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from taskstore.errors import OptionError
from taskstore_cli.arguments.evaluator import say
from taskstore_cli.arguments.search import Search
from taskstore_cli.output.console import Output, print_json

if TYPE_CHECKING:
    from taskstore.merging import MergeOptions
    from taskstore.merging.search.front import OnFront
    from taskstore.merging.search.greedy_soup import Soup
    from taskstore.merging.search.grids import Grids
    from taskstore.merging.search.origins import Origin
    from taskstore.merging.search.outcome import Searched
    from taskstore.merging.search.scoring import Scorer
    from taskstore.progress import Callback


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
    from taskstore.merging.search import auto, plot
    from taskstore.merging.search.auto import Auto
    from taskstore.merging.search.greedy_soup import Soup, greedy_soup
    from taskstore.merging.search.trials import Plan
    from taskstore_cli.output.merge_search import print_auto, print_searched, print_soup

    with wanted.journal_beside(target, "merge") as journal:
        scorers = _scorers(wanted, journal, origin, silent=out.silent)
        with out.progress() as progress:
            if procedure == "auto":
                plan = Plan(wanted.budget, wanted.seed)
                found: Searched | OnFront | Soup | Auto = auto.search(
                    origin, target, options, scorers[0], plan, progress
                )
            elif procedure:
                found = greedy_soup(origin, target, options, scorers[0], progress)
            else:
                found = _search(origin, target, options, grids, wanted, scorers, progress)
        if wanted.plot and not isinstance(found, Soup | Auto):
            plot.write(wanted.plot, found, overwrite=options.overwrite)
    if out.as_json:
        print_json(found.to_dict())
    elif isinstance(found, Soup):
        print_soup(found, out)
    elif isinstance(found, Auto):
        print_auto(found, out)
    else:
        print_searched(found, out)


def walk(
    origin: Origin,
    target: Path,
    options: MergeOptions,
    numbers: Mapping[str, float],
    data: Mapping[str, Path],
    out: Output,
) -> None:
    """Take Frank-Wolfe steps, write where they end, print how the loss fell."""
    from taskstore.merging.methods import PROCEDURES
    from taskstore.merging.search.frank_wolfe import Steps, walk
    from taskstore_cli.output.merge_search import print_walked

    known = {option.name: option.default for option in PROCEDURES["fw"].options}
    if unknown := sorted(numbers.keys() - known):
        raise OptionError(f"method 'fw' takes {' and '.join(known)}, not {unknown[0]!r}")
    given = {**known, **numbers}
    origin.check(target, options)
    with out.progress() as progress, origin.opened(target, options) as family:
        plan = Steps(int(given["steps"]), given["step"] or None)
        found = walk(family, target, options, data, plan, progress)
    if out.as_json:
        print_json(found.to_dict())
    else:
        print_walked(found, out)


def _search(
    origin: Origin,
    target: Path,
    options: MergeOptions,
    grids: Grids,
    wanted: Search,
    scorers: list[Scorer],
    progress: Callback,
) -> Searched | OnFront:
    from taskstore.merging.search import cma_search, grid_search, swarm_search
    from taskstore.merging.search.space import space
    from taskstore.merging.search.trials import Plan

    if wanted.search == "grid":
        return grid_search.search(origin, target, options, grids, scorers[0], progress)
    plan = Plan(wanted.budget, wanted.seed)
    if wanted.search == "swarm":
        box = swarm_search.space(options, grids, origin.names)
        return swarm_search.search(origin, target, box, scorers[0], plan, progress)
    box = space(options, grids, origin.names, wanted.layers)
    if wanted.search == "pareto":
        return cma_search.pareto(origin, target, box, scorers, plan, wanted.point, progress)
    return cma_search.search(origin, target, box, scorers[0], plan, progress)


def _scorers(wanted: Search, journal: Path, origin: Origin, *, silent: bool) -> list[Scorer]:
    """One for each --eval; they share a journal."""
    from taskstore.evaluation.journal import Journal
    from taskstore.merging.search.scoring import Scorer

    scores, found = Journal(journal), []
    for name, judge, minimise in wanted.judges:
        template = judge.template or ""
        found.append(
            Scorer(
                judge.command(),
                scores,
                label=template if judge.key == "score" else f"{template} --key {judge.key}",
                name=name,
                tasks=tuple(origin.names) if "{task}" in template else ("",),
                limit=wanted.limit,
                minimise=minimise,
                scratch=wanted.scratch,
                say=say(silent),
            )
        )
    return found
