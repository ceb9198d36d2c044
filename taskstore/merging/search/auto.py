"""Merge by whatever method scores best: a short list, then a search over the best of it.

Each method of the short list (`shortlist`) is scored with alpha 0.6, 0.3 and 1, as far as half of
the budget goes, which share a merged vector; averages with 1 alone. What is left of
the budget goes to CMA-ES over the best one: alpha, its options and weights per task. Where the
model has numbered blocks, `lines` joins it, from the scale 1 throughout on, which changes nothing:
so the search may give deep blocks more.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from taskstore.errors import OptionError
from taskstore.locations import publish
from taskstore.locations.base import PathLike
from taskstore.merging.methods import registry
from taskstore.merging.options import MergeOptions
from taskstore.merging.report import MergeReport
from taskstore.merging.search import cma_search
from taskstore.merging.search.grids import Grids, Values
from taskstore.merging.search.origins import Origin
from taskstore.merging.search.outcome import Points, listed, section
from taskstore.merging.search.scoring import Scorer, Scores
from taskstore.merging.search.shortlist import Facts, measure, shortlist
from taskstore.merging.search.space import Space, space
from taskstore.merging.search.trials import Plan, Trials, Tried
from taskstore.progress import Callback, silent
from taskstore.store.card import cell

SCALES = (0.6, 0.3, 1.0)  # alpha, in the order in which they are tried
AVERAGES = (1.0,)
MEANS = ("average", "model_stock", "regmean", "fisher")  # whose vector is a mean already
DEPTH = {"shallow": 1.0, "beta": 0.0}  # `lines` that changes nothing


@dataclass(frozen=True)
class Candidate:
    """A method of the short list, why it is there, and how it scored at its best (None: failed)."""

    method: str
    why: str
    alpha: float | None
    scores: Scores | None
    chosen: bool


@dataclass(frozen=True)
class Auto:
    """The methods that were tried, the search over the best (None: no budget was left), a model."""

    facts: Facts
    candidates: list[Candidate]
    points: Points | None
    failed: dict[str, str]
    minimise: bool
    report: MergeReport

    def to_dict(self) -> dict[str, Any]:
        rows = [
            {
                "method": c.method,
                "why": c.why,
                "alpha": c.alpha,
                "score": c.scores and c.scores.mean,
                "scores": c.scores and c.scores.named,
                "chosen": c.chosen,
            }
            for c in self.candidates
        ]
        auto = {"models": str(self.facts), "minimise": self.minimise, "methods": rows}
        auto |= {"failed": self.failed}
        searched = {"search": self.points.to_dict()} if self.points else {}
        return {**self.report.to_dict(), "auto": auto, **searched}


def search(
    origin: Origin,
    target: PathLike,
    options: MergeOptions,
    scorer: Scorer,
    plan: Plan,
    progress: Callback = silent,
) -> Auto:
    """Write the best model that was found to the folder `target`; the options' method is not used.

    Raises OptionError for options that are a method's or a budget under the number of methods,
    EvaluationFailed if no model can be scored, and what `merge` does; nothing is at `target` then.
    """
    if options.alpha is not None or options.weights or options.method_options:
        raise OptionError("method 'auto' finds alpha, weights and options; leave them out")
    target = Path(target)
    with ExitStack() as stack:
        stack.enter_context(publish.alone(target))
        origin.check(target, options)
        facts = measure(origin, target, options, progress)
        methods = shortlist(facts)
        if plan.budget < len(methods):
            raise OptionError(
                f"{len(methods)} methods are tried ({', '.join(methods)}), and the budget is "
                f"{plan.budget}; give at least {len(methods)}"
            )
        scorer.say(f"{facts}: trying {', '.join(methods)}")
        keeping = stack.enter_context(scorer.keeping(target))
        first = _first(list(methods), options, origin, target, keeping, plan.budget, progress)
        best = min((t for t in first.all if not t.why), key=lambda tried: tried.rank)
        candidates = _candidates(methods, first, best)
        chosen, points = _at(best.values, list(methods), options), None
        text = _section(facts, candidates, scorer) + listed(first.failed, first.dropped)
        left = plan.budget - len(first.all)
        box = _space(chosen, origin, facts) if left > 1 else None
        if box is not None:
            rest = replace(plan, budget=left)
            sharing = cma_search.kept(stack, scorer, target, box)
            trials = cma_search.tried(origin, target, box, [sharing], rest, progress)
            points = Points.of(trials, scorer, cma_search.NAME, plan.seed)
            text += section(points, scorer)
            if scorer.cost(points.scores[points.best]) < scorer.cost(best.scores[0]):
                chosen = box.at(points.values[points.best])
        report = scorer.make(origin, chosen, origin.names, progress, target, text)
    return Auto(facts, candidates, points, first.failed, scorer.minimise, report)


def _first(
    methods: list[str],
    options: MergeOptions,
    origin: Origin,
    target: Path,
    scorer: Scorer,
    budget: int,
    progress: Callback,
) -> Trials:
    """Each method at as many alphas as half the budget allows; values are (its number, alpha)."""
    count = max(1, min(len(SCALES), budget // (2 * len(methods))))
    wanted = [
        (float(number), alpha)
        for number, method in enumerate(methods)
        for alpha in (AVERAGES if method in MEANS else SCALES[:count])
    ]

    def named(values: Values) -> str:
        return f"{methods[int(values[0])]}, alpha {values[1]:g}"

    trials = Trials([scorer], origin, target, {}, len(wanted), progress, named)
    for values in wanted:
        trials.run(values, _at(values, methods, options))
    return trials


def _at(values: Values, methods: list[str], options: MergeOptions) -> MergeOptions:
    """The options of a method at a scale; statistics go where they are used."""
    method = methods[int(values[0])]
    statistics = options.statistics if registry.info_of(method).statistics else {}
    return replace(options, method=method, alpha=values[1], statistics=statistics)


def _space(method: MergeOptions, origin: Origin, facts: Facts) -> Space:
    """What is searched of the best method, from where it scored best."""
    alpha = method.alpha or 0.0
    name = f"{method.method}+lines" if facts.blocks else method.method
    box = space(replace(method, method=name, alpha=None), Grids(), origin.names)
    starts = {"alpha": alpha, **(DEPTH if facts.blocks else {})}
    axes = [
        axis._replace(
            start=starts.get(axis.key or axis.kind, axis.start), high=max(axis.high, alpha)
        )
        if axis.kind != "weight"
        else axis
        for axis in box.axes
    ]
    return replace(box, axes=axes)


def _candidates(methods: Mapping[str, str], first: Trials, best: Tried) -> list[Candidate]:
    found = []
    for number, (method, why) in enumerate(methods.items()):
        own = [t for t in first.all if t.values[0] == number and not t.why]
        top = min(own, key=lambda tried: tried.rank) if own else None
        alpha, scores = (top.values[1], top.scores[0]) if top else (None, None)
        found.append(Candidate(method, why, alpha, scores, top is best))
    return found


def _section(facts: Facts, candidates: list[Candidate], scorer: Scorer) -> str:
    """The methods for the model card."""
    rows = []
    for c in candidates:
        score = f"{c.scores.mean:.4g}" if c.scores else ""
        cells = [c.method, cell(c.why), "" if c.alpha is None else f"{c.alpha:g}", score]
        rows.append([f"**{x}**" if x and c.chosen else x for x in cells])
    columns = ["method", "why", "alpha", "loss" if scorer.minimise else "score"]
    return scorer.section("Methods that were tried", f"{facts}. Scored", columns, rows)
