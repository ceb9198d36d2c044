"""Average the fine-tunes that make the score better: greedy soup (Wortsman et al., 2203.05482).

Every fine-tune is scored, and they are sorted, best first; equal ones keep the order of their
names. The best is the first soup. Each other one in turn becomes an ingredient if the average of
the soup and it, soup n / (n + 1) + theta_j / (n + 1), scores strictly better than the soup. A soup
is averaged anew from its ingredients, so it is rounded once. What cannot be scored counts as worst:
a fine-tune is no ingredient then, and is listed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from taskstore.errors import EvaluationFailed, NotFinite, OptionError
from taskstore.evaluation.bench import fingerprint
from taskstore.locations import publish
from taskstore.locations.base import PathLike
from taskstore.merging.options import MergeOptions
from taskstore.merging.report import MergeReport
from taskstore.merging.search.origins import Origin
from taskstore.merging.search.outcome import listed
from taskstore.merging.search.scoring import Scorer, Scores
from taskstore.progress import Callback, silent
from taskstore.store.card import cell

METHOD = "average"


@dataclass(frozen=True)
class Ingredient:
    """A fine-tune, its own scores, and those of the soup with it (None: the first; it failed)."""

    model: str
    alone: Scores
    with_it: Scores | None
    kept: bool


@dataclass(frozen=True)
class Soup:
    """The ingredients in the order in which they were tried, and the scores of the soup.

    failed   the models that could not be scored, and why
    """

    ingredients: list[Ingredient]
    scores: Scores
    minimise: bool
    evaluator: str
    report: MergeReport
    failed: Mapping[str, str] = field(default_factory=dict)

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
        without = {"failed": dict(self.failed)} if self.failed else {}
        return {**self.report.to_dict(), "soup": {**soup, **without, "ingredients": rows}}


def greedy_soup(
    origin: Origin,
    target: PathLike,
    options: MergeOptions,
    scorer: Scorer,
    progress: Callback = silent,
) -> Soup:
    """Write the soup to the folder `target`; the method that `options` name is not used.

    If `tokenizer_from` or `private_from` name no ingredient, they mean the best fine-tune. Raises
    OptionError for options that no average has, EvaluationFailed, and what `merge` does. Then
    nothing is at `target`, and the scores are in the journal.
    """
    if options.alpha is not None or options.weights or options.method_options:
        raise OptionError("a greedy soup is a plain average; leave alpha, weights and options out")
    target = Path(target)
    with publish.alone(target):
        origin.check(target, options)
        options.check_tasks(origin.names)

        failed = dict[str, str]()

        def scores_of(names: list[str]) -> Scores:
            averaged = average(options, names)
            return scorer.merged(" + ".join(names), origin, averaged, names, target, progress)

        def scores_alone(name: str) -> Scores:
            folder = origin.folder(name)
            if folder is None:
                return scores_of([name])
            return scorer.score(name, fingerprint(folder), lambda: nullcontext(folder))

        def tried(what: str, scored: Callable[[], Scores], *, last: bool = False) -> Scores | None:
            try:
                return scored()
            except (EvaluationFailed, NotFinite) as error:
                if last:
                    raise
                failed[what] = str(error)
                scorer.say(f"{what}: failed, counts as worst: {error}")
                return None

        scorer.expect(2 * len(origin.names) - 1)
        alone = dict[str, Scores]()
        for name in origin.names:
            last = not alone and name == origin.names[-1]
            if own := tried(name, partial(scores_alone, name), last=last):
                alone[name] = own
        order = sorted(alone, key=lambda name: scorer.cost(alone[name]))
        chosen, best = order[:1], alone[order[0]]
        ingredients = [Ingredient(order[0], best, None, kept=True)]
        for name in order[1:]:
            soup = [*chosen, name]
            found = tried(" + ".join(soup), partial(scores_of, soup))
            kept = found is not None and scorer.cost(found) < scorer.cost(best)
            if kept and found:
                chosen, best = soup, found
            ingredients.append(Ingredient(name, alone[name], found, kept))
        text = section(ingredients, scorer) + listed(failed, {})
        report = origin.merge(target, average(options, chosen), chosen, progress, text)
    return Soup(ingredients, best, scorer.minimise, scorer.label, report, failed)


def average(options: MergeOptions, names: list[str]) -> MergeOptions:
    """The options that make the soup of these fine-tunes, of which the first is the best."""

    def present(name: str | None) -> str | None:
        return names[0] if name is not None and name not in names else name

    return replace(
        options,
        method=METHOD,
        tokenizer_from=present(options.tokenizer_from),
        private_from=present(options.private_from),
        assets_from=present(options.assets_from),
    )


def section(ingredients: list[Ingredient], scorer: Scorer) -> str:
    """The ingredients for the model card."""
    rows = []
    for i in ingredients:
        tried = f"{i.with_it.mean:.4g}" if i.with_it else ""
        kept = "ingredient" if i.kept else "left out"
        rows.append([cell(i.model), f"{i.alone.mean:.4g}", tried, kept])
    text = (
        "The average of the best fine-tune and of each that made it better (arXiv 2203.05482). "
        "Scored"
    )
    return scorer.section("Greedy soup", text, ["fine-tune", "alone", "soup with it", ""], rows)
