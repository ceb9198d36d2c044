"""Greedy soup (Wortsman et al., arXiv 2203.05482): average the fine-tunes that make it better.

Every fine-tune is scored; they are sorted, best first (equal ones as they are named), and the best
is the first soup. Each other in turn is an ingredient for good where the average of the soup and it
scores strictly better than the soup: new = soup n / (n + 1) + theta_j / (n + 1). A soup is averaged
anew from its ingredients, so it is rounded once.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from taskstore.errors import InputError
from taskstore.evaluation.bench import fingerprint
from taskstore.locations.base import PathLike
from taskstore.merging.options import MergeOptions
from taskstore.merging.report import MergeReport
from taskstore.merging.search.grid_search import code
from taskstore.merging.search.origins import Origin
from taskstore.merging.search.scoring import Scorer, Scores
from taskstore.progress import Callback, silent
from taskstore.store.card import cell

METHOD = "average"


@dataclass(frozen=True)
class Ingredient:
    """A fine-tune, its own scores, and those of the soup with it (None: it is the first)."""

    model: str
    alone: Scores
    with_it: Scores | None
    kept: bool


@dataclass(frozen=True)
class Soup:
    """Ingredients in the order in which they were tried; `scores` are the finished soup's."""

    ingredients: list[Ingredient]
    scores: Scores
    minimise: bool
    evaluator: str
    report: MergeReport

    def to_dict(self) -> dict[str, Any]:
        rows = [
            {
                "model": i.model,
                "score": i.alone.mean,
                "scores": i.alone.named,
                "score_with_it": i.with_it and i.with_it.mean,
                "scores_with_it": i.with_it and i.with_it.named,
                "kept": i.kept,
            }
            for i in self.ingredients
        ]
        soup = {"evaluator": self.evaluator, "minimise": self.minimise, "score": self.scores.mean}
        return {**self.report.to_dict(), "soup": {**soup, "ingredients": rows}}


def greedy_soup(
    origin: Origin,
    target: PathLike,
    options: MergeOptions,
    scorer: Scorer,
    progress: Callback = silent,
) -> Soup:
    """Write the soup to the folder `target`; the method that `options` name does not count.

    `tokenizer_from` and `private_from` mean the best fine-tune where the one that they name is no
    ingredient. Raises InputError for options that no average has, EvaluationFailed and what
    `merge` does; nothing is at `target` then, and what was scored is in the journal.
    """
    if options.alpha is not None or options.weights or options.method_options:
        raise InputError("a greedy soup is a plain average; leave alpha, weights and options out")
    target = Path(target)
    origin.check(target, options)
    options.check_tasks(origin.names)

    def scores_of(names: list[str]) -> Scores:
        averaged = average(options, names)
        return scorer.merged(" + ".join(names), origin, averaged, names, progress)

    def scores_alone(name: str) -> Scores:
        folder = origin.folder(name)
        if folder is None:
            return scores_of([name])
        return scorer.score(name, fingerprint(folder), partial(as_it_is, folder))

    alone = {name: scores_alone(name) for name in origin.names}
    order = sorted(alone, key=lambda name: alone[name].mean, reverse=not scorer.minimise)
    chosen, best = order[:1], alone[order[0]]
    ingredients = [Ingredient(order[0], best, None, kept=True)]
    for name in order[1:]:
        found = scores_of([*chosen, name])
        kept = scorer.better(found.mean, best.mean)
        if kept:
            chosen, best = [*chosen, name], found
        ingredients.append(Ingredient(name, alone[name], found, kept))
    text = section(ingredients, scorer)
    report = origin.merge(target, average(options, chosen), chosen, progress, text)
    return Soup(ingredients, best, scorer.minimise, scorer.label, report)


def as_it_is(folder: Path) -> AbstractContextManager[Path]:
    return nullcontext(folder)


def average(options: MergeOptions, names: list[str]) -> MergeOptions:
    """Options that make the soup of these, the best first."""

    def present(name: str | None) -> str | None:
        return names[0] if name is not None and name not in names else name

    return replace(
        options,
        method=METHOD,
        tokenizer_from=present(options.tokenizer_from),
        private_from=present(options.private_from),
    )


def section(ingredients: list[Ingredient], scorer: Scorer) -> str:
    """For the model card."""
    lines = [
        "\n## Greedy soup\n\nThe average of the best fine-tune and of each that made it better "
        f"(arXiv 2203.05482). Scored with {code(scorer.label)}:\n",
        "| fine-tune | alone | soup with it | |",
        "|---|---|---|---|",
    ]
    for i in ingredients:
        tried = f"{i.with_it.mean:.4g}" if i.with_it else ""
        kept = "ingredient" if i.kept else "left out"
        lines.append(f"| {cell(i.model)} | {i.alone.mean:.4g} | {tried} | {kept} |")
    return "\n".join(lines) + "\n"
